import { queueCancelSql, queueSql } from '@signalbox/work/queue-migration';

const queue = { schema: 'memory_sync', items: 'pushes' };

/** The queue of pushes to the memory backend: one row a version of a memory, one lane a memory. Empty without a backend. */
export const up = (pgm: { sql(text: string): void }): void => {
  pgm.sql([queueSql(queue), queueCancelSql(queue)].join('\n'));
};

export const down = (pgm: { sql(text: string): void }): void => {
  pgm.sql('DROP SCHEMA memory_sync CASCADE');
};
