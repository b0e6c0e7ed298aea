import { queueSql } from '@signalbox/work/queue-migration';

/** The queue of calls: one row a call (the inbox of its request), one lane a call, since calls need no order. */
export const up = (pgm: { sql(text: string): void }): void => {
  pgm.sql(queueSql({ schema: 'tool_executor', items: 'calls' }));
};

export const down = (pgm: { sql(text: string): void }): void => {
  pgm.sql('DROP SCHEMA tool_executor CASCADE');
};
