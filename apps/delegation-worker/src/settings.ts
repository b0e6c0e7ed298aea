import { databaseSettings } from '@signalbox/config/database-settings';
import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { serviceSettings } from '@signalbox/config/service-settings';
import { integer, type SettingsOf } from '@signalbox/config/settings';
import { guardSettings } from '@signalbox/http-client/guard-settings';
import { webhookSettings } from '@signalbox/http-client/webhook-settings';

/** What delegation-worker reads. */
export const delegationWorkerSettings = {
  ...serviceSettings,
  ...databaseSettings,
  ...kafkaSettings,
  ...outboxSettings,
  ...guardSettings,
  ...webhookSettings,
  maxConcurrent: integer({
    env: 'DELEGATION_MAX_CONCURRENT',
    doc: 'Tasks that run at once in a replica; those that wait for a turn, a child or an answer do not count.',
    default: 32,
    min: 1,
    max: 1_024,
  }),
  leaseMs: integer({
    env: 'DELEGATION_LEASE_MS',
    doc: 'A task of a replica that is gone is taken over after this.',
    default: 10_000,
    min: 2_000,
    max: 600_000,
  }),
  maxDepth: integer({
    env: 'DELEGATION_MAX_DEPTH',
    doc: "How deep tasks may be delegated; a caller's own task has depth 0. One deeper fails.",
    default: 4,
    max: 32,
  }),
  maxOpenChildren: integer({
    env: 'DELEGATION_MAX_OPEN_CHILDREN',
    doc: 'Tasks of one tenant that tasks have delegated and that have not ended; one more fails (TENANT_BUSY).',
    default: 10_000,
    min: 1,
    max: 1_000_000,
  }),
  maxRetries: integer({
    env: 'DELEGATION_MAX_RETRIES',
    doc: 'How often a task that failed is tried again, with pauses of up to a minute, before it fails for good.',
    default: 5,
    max: 1_000,
  }),
  maxTaskMs: integer({
    env: 'DELEGATION_TASK_MAX_MS',
    doc: 'A task expires so long after it was submitted, where its own deadline is not earlier.',
    default: 86_400_000,
    min: 1_000,
    max: 2_592_000_000,
  }),
  webhookMaxConcurrent: integer({
    env: 'WEBHOOK_MAX_CONCURRENT',
    doc: 'Webhooks that a replica calls at once.',
    default: 16,
    min: 1,
    max: 1_024,
  }),
  webhookTimeoutMs: integer({
    env: 'WEBHOOK_TIMEOUT_MS',
    doc: 'Bound of one call of a webhook, from the name to the end of the answer.',
    default: 10_000,
    min: 100,
    max: 60_000,
  }),
};

export type DelegationWorkerSettings = SettingsOf<typeof delegationWorkerSettings>;
