import { delegationUpdatesSchema, type TaskUpdated } from '@signalbox/contracts/delegation-updates';
import { headerNames } from '@signalbox/contracts/headers';
import { newId } from '@signalbox/contracts/ids';
import type { UpkeepDone } from '@signalbox/contracts/jobs';
import { idKey } from '@signalbox/contracts/keys';
import { newApiKey } from '@signalbox/identity/api-keys';
import { createKey, createTenant } from '@signalbox/identity/create-key';
import type { Receipt } from '@signalbox/messaging/messaging';
import { toRecord } from '@signalbox/messaging/outgoing';
import { readAll } from '@signalbox/messaging/read-topic';
import type { Database } from '@signalbox/postgres/database';
import { silentLog as log } from '@signalbox/telemetry/silent';
import { type Answer, call } from '@signalbox/testkit/api-call';
import type { TestDatabase } from '@signalbox/testkit/database';
import { testInfra } from '@signalbox/testkit/infra';
import type { SpawnedService } from '@signalbox/testkit/service';
import { openSse, type SseOptions, type SseStream } from '@signalbox/testkit/sse';
import { openSurroundings } from '@signalbox/testkit/surroundings';
import type { OwnTopics } from '@signalbox/testkit/topics';
import { waitFor } from '@signalbox/testkit/wait';

/** A record of delegation.tasks as the worker finds it. */
export interface TaskRecord {
  readonly type: string | undefined;
  readonly eventId: string | undefined;
  readonly replyTo: string | undefined;
  readonly value: Record<string, unknown>;
}

export interface DelegationFixture {
  readonly keys: { readonly acme: string; readonly globex: string };
  readonly env: Record<string, string>;
  readonly database: TestDatabase;
  readonly db: Database;
  readonly topics: OwnTopics;
  /** A gateway of its own process, ready. */
  start(env?: Record<string, string>): Promise<SpawnedService>;
  /** Speaks as the delegation-worker: puts updates of a task into delegation.updates, one after the other. */
  tell(tenant: string, taskId: string, updates: readonly Told[]): Promise<Receipt[]>;
  /** What the worker finds of a task, in the order of the log, once there are `count` records of it. */
  records(tenant: string, taskId: string, count: number): Promise<TaskRecord[]>;
  /** Asks for a piece of upkeep as job-worker does. */
  upkeep(task: string): Promise<UpkeepDone>;
  close(): Promise<void>;
}

export type Told = Partial<TaskUpdated> & {
  /** The same id twice: the producer sent the record again. */
  readonly eventId?: string;
  /** webhook.updated with these fields instead of an update of the task. */
  readonly webhook?: Record<string, unknown>;
};

/** Database, topics and two tenants with keys of one test file. */
export async function delegationFixture(): Promise<DelegationFixture> {
  const around = await openSurroundings({
    topics: ['delegation.tasks', 'delegation.updates', 'jobs.commands', 'jobs.results'],
    ...{ service: 'delegation-worker', asOwner: true },
    env: {
      DATABASE_POOL_SIZE: '4',
      DATABASE_MAX_OVERFLOW: '0',
      REDIS_URL: testInfra().redisUrl,
      REDIS_KEY_PREFIX: `test-${newId().slice(-12)}:`,
      RATE_LIMIT_MAX: '0',
      TRACING_ENABLED: 'true',
    },
  });
  const { env, settings, database, topics, own: db } = around;
  const keys = { acme: newApiKey('dev').text, globex: newApiKey('dev').text };
  for (const [tenant, text] of Object.entries(keys)) {
    await createTenant(db, tenant, tenant);
    await db.transaction((tx) => createKey(tx, { tenant, text, name: 'test' }), { tenant });
  }

  return {
    keys,
    env,
    database,
    db,
    topics,
    start: (more) => around.start('delegation-gateway', more),
    async tell(tenant, taskId, updates) {
      const receipts: Receipt[] = [];
      for (const { eventId = newId(), webhook, ...update } of updates) {
        const topic = 'delegation.updates';
        const now = new Date().toISOString();
        const key = idKey(tenant, taskId);
        const value =
          webhook === undefined
            ? {
                task_id: taskId,
                seq: 1,
                status: 'running',
                attempt: 1,
                target: { handler: 'test' },
                depth: 0,
                priority: 5,
                submitted_at: now,
                updated_at: now,
                ...update,
              }
            : { task_id: taskId, webhook_id: newId(), updated_at: now, ...webhook };
        const { headers } = toRecord(
          {
            topic,
            key,
            tenant,
            eventType: webhook === undefined ? 'task.updated' : 'webhook.updated',
            schema: delegationUpdatesSchema,
            eventId,
            correlationId: taskId,
            value,
          },
          `00-${newId().replaceAll('-', '')}-00f067aa0ba902b7-01`,
        );
        receipts.push(await around.messaging.producer.direct({ topic, key, headers, value }));
      }
      return receipts;
    },
    records: (tenant, taskId, count) =>
      waitFor(
        async () => {
          const all = await readAll({ settings, topic: 'delegation.tasks', log });
          return all
            .filter(({ key }) => key === idKey(tenant, taskId))
            .map(({ headers, value }) => ({
              type: headers[headerNames.eventType],
              eventId: headers[headerNames.eventId],
              replyTo: headers[headerNames.replyTo],
              value: JSON.parse(value?.toString() ?? '{}'),
            }));
        },
        (found) => found.length >= count,
        { timeoutMs: 20_000, label: `${count} records of the task` },
      ),
    upkeep: (task) => around.upkeep('delegation-gateway', task),
    close: around.close,
  };
}

export interface Submitted extends Record<string, unknown> {
  readonly task_id: string;
  readonly status: string;
}

export const handlerTask = { payload: { handler: 'test', input: { n: 1 } } };

export function submit(
  service: { readonly url: string },
  key: string,
  body: unknown = handlerTask,
  headers: Record<string, string> = {},
): Promise<Answer<Submitted>> {
  return call(service, '/v1/delegation/task', { key, body, headers });
}

/** Follows a task's stream. */
export function follow(
  service: { readonly url: string },
  key: string,
  taskId: string,
  options: Omit<SseOptions, 'headers'> = {},
): Promise<SseStream> {
  return openSse(`${service.url}/v1/delegation/task/${taskId}/events`, {
    ...options,
    headers: { 'x-api-key': key },
  });
}

/** Reads the task until its status is this one. */
export function reached(
  service: { readonly url: string },
  key: string,
  taskId: string,
  status: string,
): Promise<Answer> {
  return waitFor(
    () => call(service, `/v1/delegation/task/${taskId}`, { key }),
    ({ body }) => body.status === status,
    { label: `the task to be ${status}` },
  );
}
