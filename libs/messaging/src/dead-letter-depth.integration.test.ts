import { newId } from '@signalbox/contracts/ids';
import { sourceTopics, type TopicName } from '@signalbox/contracts/topics';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import type { GaugeReading, Metrics } from '@signalbox/telemetry/telemetry';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { depthGauge } from './dead-letter-depth.ts';
import { deadLetters } from './dead-letter-store.ts';
import { fileDeadLetter } from './dead-letters.ts';

let testDatabase: TestDatabase;
let database: Database;
beforeAll(async () => {
  testDatabase = await createTestDatabase();
  database = openPool(testDatabase.url);
});
afterAll(async () => {
  await database?.close();
  await testDatabase?.drop();
});

function openPool(url: string): Database {
  return openDatabase({
    ...{ url, poolSize: 2, maxOverflow: 0, poolTimeoutMs: 2_000, poolRecycleMs: 600_000 },
    ...{ applicationName: 'depth-test', log: silentLog, metrics: silentMetrics },
  });
}

/** The gauge as a scrape sees it; read often. */
function gauge(of: Database) {
  let read: () => GaugeReading = () => undefined;
  const metrics: Metrics = {
    ...silentMetrics,
    gauge(_name, _options, given) {
      read = given;
      return () => undefined;
    },
  };
  const end = depthGauge(of, metrics, silentLog, 20);
  return {
    end,
    depths() {
      const reading = read();
      return typeof reading === 'object'
        ? Object.fromEntries(reading.map(({ value, labels }) => [labels.topic, value]))
        : undefined;
    },
  };
}

async function file(topic: TopicName): Promise<string> {
  const id = await database.transaction(async (tx) => {
    await fileDeadLetter(tx, {
      ...{
        tenant: 'acme',
        topic,
        partition: 0,
        offset: BigInt(Date.now()),
        timestampMs: 0,
        consumer: newId(),
      },
      ...{ reason: 'schema', detail: '', attempts: 1, key: Buffer.from(`acme:${newId()}`), eventId: newId() },
      ...{ headers: { event_type: 'tool.outcome' }, value: Buffer.from('{}'), traceparent: undefined },
    });
    const [newest] = await tx.query<{ id: string }>(
      `select id from messaging.dead_letter_list('acme', $1, 'waiting', null, 1)`,
      [topic],
    );
    return newest?.id;
  });
  return id ?? expect.unreachable();
}

it('counts what waits, topic by topic over all tenants, and falls to 0 with a replay or a purge', async () => {
  const store = deadLetters(database, silentLog);
  const none = Object.fromEntries(sourceTopics.map((topic) => [topic, 0]));
  const { depths, end } = gauge(database);
  const shows = (wanted: Record<string, number>, label: string) =>
    waitFor(depths, (got) => JSON.stringify(sorted(got)) === JSON.stringify(sorted({ ...none, ...wanted })), {
      label,
    });
  await shows({}, 'a 0 for each topic, and no other series');
  const ids = [await file('tool.results'), await file('tool.results')];
  await file('conversation.inbound.dlq');
  await shows({ 'tool.results': 2, 'conversation.inbound.dlq': 1 }, 'three');
  const [first = '', second = ''] = ids;
  await database.transaction((tx) =>
    store.replay(tx, { tenant: 'acme', id: first, by: 'key:k1', source: 'test' }),
  );
  await shows({ 'tool.results': 1, 'conversation.inbound.dlq': 1 }, 'one fewer by the replay');
  await database.transaction((tx) => store.purge(tx, { tenant: 'acme', id: second, by: 'key:k1' }));
  await testDatabase.query(`delete from messaging.dead_letters where topic like '%.dlq'`);
  await shows({ 'conversation.inbound.dlq': 0 }, 'none, and a topic that had one is shown with 0');
  end();
});

it('is not shown before it could be read', async () => {
  const away = openPool('postgres://nobody@127.0.0.1:1/none');
  const { depths, end } = gauge(away);
  await waitFor(
    () => away.query('select 1').catch(() => 'refused'),
    (answer) => answer === 'refused',
  );
  expect(depths()).toBeUndefined();
  end();
  await away.close();
});

function sorted(depths: Record<string, number> | undefined) {
  return depths && Object.entries(depths).sort(([a], [b]) => (a < b ? -1 : 1));
}
