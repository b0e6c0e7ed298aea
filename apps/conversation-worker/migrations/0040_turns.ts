import { queueSql } from '@signalbox/work/queue-migration';

/** The queue of turns: one row a message (the inbox of its message), one lane a session. */
export const up = (pgm: { sql(text: string): void }): void => {
  pgm.sql(queueSql({ schema: 'conversation_worker', items: 'turns' }));
};

export const down = (pgm: { sql(text: string): void }): void => {
  pgm.sql('DROP SCHEMA conversation_worker CASCADE');
};
