import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { newId } from '@signalbox/contracts/ids';
import type { SourceTopicName } from '@signalbox/contracts/topics';
import { putRows } from '@signalbox/messaging/outbox-sql';
import { type OutgoingMessage, toRecord } from '@signalbox/messaging/outgoing';
import { readAll } from '@signalbox/messaging/read-topic';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { launchService, type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { type OwnTopics, ownTopics } from '@signalbox/testkit/topics';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { outboxSyncSettings } from '../src/settings.ts';

let topics: OwnTopics;
let testDatabase: TestDatabase;
let database: Database;

beforeAll(async () => {
  topics = ownTopics();
  [testDatabase] = await Promise.all([createTestDatabase(), topics.create('conversation.inbound')]);
  database = openDatabase({
    url: testDatabase.url,
    poolSize: 4,
    maxOverflow: 0,
    poolTimeoutMs: 5_000,
    poolRecycleMs: 600_000,
    applicationName: 'outbox-sync-test',
    log: silentLog,
    metrics: silentMetrics,
  });
});

afterAll(async () => {
  await database?.close();
  await Promise.all([testDatabase?.drop(), topics?.drop()]);
});

function environment(): Record<string, string> {
  return {
    DATABASE_URL: testDatabase.url,
    DATABASE_POOL_SIZE: '4',
    DATABASE_MAX_OVERFLOW: '0',
    KAFKA_BOOTSTRAP_SERVERS: testInfra().kafka,
    KAFKA_TOPIC_PREFIX: topics.prefix,
    KAFKA_GROUP_ID: 'outbox-sync-test',
    OUTBOX_STALE_MS: '300',
  };
}

function start(env: Record<string, string> = {}): Promise<SpawnedService> {
  return spawnService('outbox-sync', { ...environment(), ...env });
}

/** What is in the topic now, in the order of the log. */
function readTopic(topic: SourceTopicName): Promise<{ key: string; value: { n?: number } }[]> {
  const settings = loadSettings('outbox-sync', outboxSyncSettings, givenSources(environment()));
  return readAll({ settings, topic, log: silentLog }).then((records) =>
    records.map(({ key, value }) => ({ key: key ?? '', value: JSON.parse(value?.toString() ?? '{}') })),
  );
}

function message(session: string, topic: OutgoingMessage['topic'] = 'conversation.inbound'): OutgoingMessage {
  const eventId = newId();
  return {
    topic,
    key: `acme:${session}`,
    tenant: 'acme',
    eventType: 'message.posted',
    schema: 'conversation.inbound.v1',
    eventId,
    sessionId: session,
    value: { text: eventId },
  };
}

function put(writer: string | null, messages: readonly OutgoingMessage[]): Promise<unknown> {
  const records = messages.map((each) => ({
    ...toRecord(each, undefined),
    tenant: each.tenant,
    eventId: each.eventId,
  }));
  return database.transaction((tx) => putRows(tx, writer, records));
}

async function rowsLeft(): Promise<number> {
  const [row] = await testDatabase.query<{ n: string }>('select count(*) as n from messaging.outbox');
  return Number(row?.n);
}

it('publishes rows that were given up and rows whose process died after its commit', async () => {
  await using service = await start();
  await service.ready();
  await put(null, [message(newId()), message(newId())]);
  await put(newId(), [message(newId())]); // its writer is a process that is no more
  await waitFor(rowsLeft, (left) => left === 0, { label: 'an empty outbox' });
  expect(await service.metric('durable_publish_total', { path: 'relay', result: 'ok' })).toBe(3);
  const { code } = await service.stop();
  expect(code).toBe(0);
});

it('shares the slots between replicas, and one that is killed loses nothing', async () => {
  await using first = await start();
  await using second = await start();
  await second.log('relay.slots', ({ slots }) => slots === 32);
  await first.log('relay.slots', ({ slots }) => slots === 32);
  first.kill('SIGKILL');
  await put(
    null,
    Array.from({ length: 200 }, () => message(newId())),
  );
  await second.log('relay.slots', ({ slots }) => slots === 64);
  await waitFor(rowsLeft, (left) => left === 0, { label: 'an empty outbox' });
});

it('goes on with other topics while one is missing', async () => {
  await using service = await start();
  await service.ready();
  await put(null, [message(newId(), 'tool.requests')]); // this test has not made that topic
  await service.log('relay.topics_missing');
  await put(null, [message(newId())]);
  await waitFor(rowsLeft, (left) => left === 1, { label: 'only the row of the missing topic' });
  await testDatabase.query('delete from messaging.outbox');
});

it('what a killed process has committed is published, in order, whatever it was killed in the middle of', async () => {
  const sessions = Array.from({ length: 4 }, () => newId());
  const writer = launchService('writer', environment(), {
    entry: new URL('./writer-process.ts', import.meta.url),
    args: [sessions.join(',')],
  });
  await waitFor(
    () => writer.logs.length,
    (committed) => committed > 400,
    { label: '400 commits' },
  );
  writer.kill('SIGKILL');
  await writer.exited;
  await using _relay = await start();
  await waitFor(rowsLeft, (left) => left === 0, { label: 'an empty outbox' });
  const log = await readTopic('conversation.inbound');
  for (const session of sessions) {
    const firsts = [
      ...new Set(log.filter(({ key }) => key === `acme:${session}`).map(({ value }) => value.n)),
    ];
    expect(firsts).toEqual(firsts.map((_, i) => i + 1)); // in order and without a gap
    const told = writer.logs.filter((each) => each.session === session).length;
    expect(firsts.length).toBeGreaterThanOrEqual(told); // one more may have committed unsaid
  }
});

it('stays up while the broker is away, is unready, and has published the backlog soon after it is back', async () => {
  const [host = '', port = ''] = testInfra().kafka.split(':');
  await using proxy = await startFaultProxy({ host, port: Number(port), kafka: true });
  await proxy.refuse();
  await using service = await start({ KAFKA_BOOTSTRAP_SERVERS: proxy.address });
  const sessions = Array.from({ length: 200 }, () => newId());
  for (let n = 0; n < 10; n += 1)
    await put(
      null,
      sessions.map((session) => message(session)),
    );
  await waitFor(
    async () => (await (await fetch(`${service.url}/ready`)).json()) as { reason?: string },
    ({ reason }) => reason === 'kafka',
    { label: 'unready for want of a broker' },
  );
  await proxy.heal();
  const back = performance.now();
  await waitFor(rowsLeft, (left) => left === 0, { label: 'an empty outbox' });
  expect(performance.now() - back).toBeLessThan(3_000);
  await service.ready();
});
