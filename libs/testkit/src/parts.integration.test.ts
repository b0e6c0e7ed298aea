import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { newId } from '@signalbox/contracts/ids';
import { openMessaging } from '@signalbox/messaging/messaging';
import { openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { expect, test } from 'vitest';
import { createTestDatabase } from './database.ts';
import { startFaultProxy } from './fault-proxy.ts';
import { testInfra } from './infra.ts';
import { ownTopics } from './topics.ts';

test('a database has the whole schema, the service role no way around row level security, and is dropped', async () => {
  const database = await createTestDatabase();
  const other = await createTestDatabase();
  expect(other.name).not.toBe(database.name);
  const [role] = await database.query<{ rolsuper: boolean; rolbypassrls: boolean }>(
    'SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = $1',
    [new URL(database.url).username],
  );
  expect(role).toEqual({ rolsuper: false, rolbypassrls: false });
  const [count] = await database.query<{ count: string }>('SELECT count(*) FROM signalbox.migrations');
  expect(Number(count?.count)).toBeGreaterThan(5);
  await database.drop();
  expect(await other.query('SELECT 1 FROM pg_database WHERE datname = $1', [database.name])).toEqual([]);
  await other.drop();
});

test('topics are made under a prefix of their own, again without harm, and deleted', async () => {
  await using topics = ownTopics();
  expect(topics.prefix).not.toBe(ownTopics().prefix);
  await topics.create('tool.catalog');
  await topics.create('tool.catalog');
});

test('a Kafka client stays behind its proxy', async () => {
  await using topics = ownTopics();
  await topics.create('tool.catalog');
  await using database = await createTestDatabase();
  const [host = '', port] = testInfra().kafka.split(':');
  await using proxy = await startFaultProxy({ host, port: Number(port), kafka: true });
  const pool = { poolSize: 1, maxOverflow: 1, poolTimeoutMs: 5_000, poolRecycleMs: 60_000 };
  const both = { log: silentLog, metrics: silentMetrics };
  const opened = openDatabase({ url: database.url, ...pool, applicationName: 'test', ...both });
  const env = { KAFKA_BOOTSTRAP_SERVERS: proxy.address, KAFKA_TOPIC_PREFIX: topics.prefix };
  const settings = loadSettings('test', kafkaSettings, givenSources(env));
  const messaging = openMessaging({
    settings,
    instanceId: newId(),
    service: 'test',
    database: opened,
    ...both,
  });
  const send = (signal?: AbortSignal) =>
    messaging.producer.direct({ topic: 'tool.catalog', key: 'acme:x', headers: {}, value: {} }, signal);
  expect(await send()).toMatchObject({ partition: 0 });
  // A client that had learnt the broker's own address would go on.
  await proxy.refuse();
  await expect(send(AbortSignal.timeout(700))).rejects.toThrow();
  await proxy.heal();
  expect(await send()).toMatchObject({ partition: 0 });
  proxy.blackhole('to-client'); // the broker takes it, its answer is lost
  await expect(send(AbortSignal.timeout(700))).rejects.toThrow();
  await proxy.heal();
  await messaging.close();
  await opened.close();
});
