import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { testInfra } from '@signalbox/testkit/infra';
import { type OwnTopics, ownTopics } from '@signalbox/testkit/topics';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type PartName, partNames } from './parts.ts';
import { createReplica, type Replica, type ServiceName } from './replica.ts';
import { expectWaiting, readyBoundMs, untilWell } from './start-order.ts';

// All orders, on parts that really start: start-order.regression.ts.

const services: readonly ServiceName[] = [
  ...(['gateway', 'conversation-worker', 'tool-executor', 'outbox-sync', 'memory-sync'] as const),
  ...(['memory-replicator', 'delegation-gateway', 'delegation-worker', 'job-worker'] as const),
];
let database: TestDatabase;
let topics: OwnTopics;
let replicas: readonly Replica[];

beforeAll(async () => {
  const infra = testInfra();
  topics = ownTopics();
  [database] = await Promise.all([createTestDatabase(), topics.create()]);
  replicas = await Promise.all(
    services.map((service) =>
      createReplica({
        ...{ service, name: service, infra, databaseUrl: database.url, proxied: true },
        settings: {
          KAFKA_TOPIC_PREFIX: topics.prefix,
          KAFKA_GROUP_ID: topics.prefix,
          REDIS_KEY_PREFIX: topics.prefix,
          MODEL_BASE_URL: 'http://127.0.0.1:9/v1',
          TOOL_EXECUTOR_WARM_PROCESSES: '1',
          DATABASE_POOL_SIZE: '2',
          DATABASE_MAX_OVERFLOW: '2',
        },
      }),
    ),
  );
});
afterAll(async () => {
  await Promise.all((replicas ?? []).map((replica) => replica.close()));
  await Promise.all([database?.drop(), topics?.drop()]);
});

test('every service starts before its parts, says what it waits for, and is ready soon after the last', async () => {
  const away = new Set<PartName>(partNames);
  const each = (work: (replica: Replica) => Promise<unknown>) => Promise.all(replicas.map(work));
  await each((replica) => Promise.all(partNames.map((part) => replica.cut(part, 'refuse'))));
  await each((replica) => replica.start());
  await expectWaiting(replicas, away);
  for (const part of ['redis', 'postgres'] as const) {
    await each((replica) => replica.heal(part));
    away.delete(part);
    await expectWaiting(replicas, away);
  }
  await each((replica) => replica.heal('kafka'));
  for (const ms of Object.values(await untilWell(replicas))) expect(ms).toBeLessThan(readyBoundMs);
}, 90_000);
