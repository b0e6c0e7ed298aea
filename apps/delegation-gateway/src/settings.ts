import { streamSettings } from '@signalbox/api/stream-settings';
import { writeSettings } from '@signalbox/api/write-settings';
import { databaseSettings } from '@signalbox/config/database-settings';
import { httpSettings } from '@signalbox/config/http-settings';
import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { redisSettings } from '@signalbox/config/redis-settings';
import { serviceSettings } from '@signalbox/config/service-settings';
import { integer, type SettingsOf } from '@signalbox/config/settings';
import { guardSettings } from '@signalbox/http-client/guard-settings';

/** What the delegation gateway reads. */
export const delegationGatewaySettings = {
  ...serviceSettings,
  ...databaseSettings,
  ...kafkaSettings,
  ...outboxSettings,
  ...redisSettings,
  ...httpSettings,
  ...writeSettings,
  ...streamSettings,
  ...guardSettings,
  tenantMaxOpenTasks: integer({
    env: 'TENANT_MAX_OPEN_TASKS',
    doc: 'Tasks of one tenant that may wait or run; past it a task is answered 429.',
    default: 10_000,
    min: 1,
  }),
  tasksKeepDays: integer({
    env: 'TASKS_KEEP_DAYS',
    doc: 'How long ended tasks, and events of tasks, are kept. Longer than delegation.updates is.',
    default: 30,
    min: 8,
    max: 3_650,
  }),
  streamEpoch: integer({
    env: 'DELEGATION_STREAM_EPOCH',
    doc: "First part of every id of a task's stream. Raise it when the topic delegation.updates is made anew.",
    default: 1,
    min: 1,
    max: 99_999_999,
  }),
};

export type DelegationGatewaySettings = SettingsOf<typeof delegationGatewaySettings>;
