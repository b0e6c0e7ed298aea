import {
  queueCancelDownSql,
  queueCancelSql,
  queuePriorityDownSql,
  queuePrioritySql,
  queueSql,
} from '@signalbox/work/queue-migration';

/** Tasks: one row a task (the inbox of its submission), one lane a task, the urgent ones of a tenant first. */
const tasks = { schema: 'delegation_worker', items: 'runs' };
/** What callback URLs are to be told: one lane a task, so that they hear of its statuses in order. */
const webhooks = {
  schema: 'delegation_webhooks',
  items: 'webhooks',
  roles: ['signalbox_delegation_worker'],
};

export const up = (pgm: { sql(text: string): void }): void => {
  pgm.sql(queueSql(tasks));
  pgm.sql(queueCancelSql(tasks));
  pgm.sql(queuePrioritySql(tasks));
  pgm.sql(queueSql(webhooks));
  pgm.sql(queueCancelSql(webhooks));
};

export const down = (pgm: { sql(text: string): void }): void => {
  pgm.sql(queueCancelDownSql(webhooks));
  pgm.sql(queuePriorityDownSql(tasks));
  pgm.sql(queueCancelDownSql(tasks));
  pgm.sql('DROP SCHEMA delegation_webhooks CASCADE');
  pgm.sql('DROP SCHEMA delegation_worker CASCADE');
};
