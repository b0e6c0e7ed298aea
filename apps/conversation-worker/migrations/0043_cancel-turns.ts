import { queueCancelDownSql, queueCancelSql } from '@signalbox/work/queue-migration';

const queue = { schema: 'conversation_worker', items: 'turns' };

/** Turns can be cancelled, and tries that left no outcome are counted. */
export const up = (pgm: { sql(text: string): void }): void => {
  pgm.sql(queueCancelSql(queue));
};

export const down = (pgm: { sql(text: string): void }): void => {
  pgm.sql(queueCancelDownSql(queue));
};
