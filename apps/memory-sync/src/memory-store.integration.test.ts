import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { newId } from '@signalbox/contracts/ids';
import { isFault } from '@signalbox/faults/fault';
import { openMessaging } from '@signalbox/messaging/messaging';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { waitFor } from '@signalbox/testkit/wait';
import { workQueue } from '@signalbox/work/queue';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { memory } from '../test/sync-harness.ts';
import { type Change, type MemoryStore, memoryStore } from './memory-store.ts';
import { pushRow } from './push-row.ts';
import { walMessage } from './wal-messages.ts';

let own: TestDatabase;
let database: Database;
let store: MemoryStore;

beforeAll(async () => {
  own = await createTestDatabase();
  database = openDatabase({
    ...{ url: own.url, poolSize: 4, maxOverflow: 2, poolTimeoutMs: 5_000, poolRecycleMs: 600_000 },
    ...{ applicationName: 'test', log: silentLog, metrics: silentMetrics },
  });
  store = memoryStore(database, { writer: null, committed: () => undefined, failed: () => undefined });
});
afterAll(async () => {
  await database?.close();
  await own?.drop();
});

const change = (text: string, more: Partial<Change> = {}): Change => {
  const item = memory(text);
  return {
    ...{
      tenant: 'acme',
      memoryId: item.memory_id,
      idempotencyKey: item.idempotency_key,
      isFirst: true,
      item,
    },
    ...more,
  };
};

test('a memory costs one row here and one in the outbox, and no lane', async () => {
  const messaging = openMessaging({
    settings: loadSettings(
      'test',
      { ...kafkaSettings, ...outboxSettings },
      givenSources({ KAFKA_BOOTSTRAP_SERVERS: '127.0.0.1:1' }),
    ),
    ...{ instanceId: newId(), service: 'test', database, log: silentLog, metrics: silentMetrics },
  });
  const changes = Array.from({ length: 20 }, (_, at) => change(`counted ${at}`));
  await database.transaction(async (tx) => {
    const stored = await store.store(tx, changes, false);
    await messaging.outbox.put(
      tx,
      stored.map(({ place, version }) => walMessage({ ...(changes[place] ?? change('')), version }, {})),
    );
    const rows = await tx.query<{ name: string; n: string }>(
      `select schemaname || '.' || relname as name, n_tup_ins + n_tup_upd + n_tup_del as n
       from pg_stat_xact_user_tables where n_tup_ins + n_tup_upd + n_tup_del > 0 order by 1`,
    );
    expect(rows).toEqual([
      { name: 'memory_sync.memories', n: '20' },
      { name: 'messaging.outbox', n: '20' },
    ]);
  });
  await messaging.close(100);
});

test('of two transactions with the next version of one memory the second is repeated and sees the first', async () => {
  const first = change('contended');
  const second = change('contended too', { memoryId: first.memoryId, isFirst: false });
  let waiting: Promise<unknown> = Promise.resolve();
  await database.transaction(async (tx) => {
    expect(await store.store(tx, [first], false)).toMatchObject([{ version: 1 }]);
    waiting = database.transaction((other) => store.store(other, [second], false)).catch((error) => error);
    await lockWait();
  });
  const failed = await waiting;
  expect(isFault(failed, 'DATABASE_UNAVAILABLE') && failed.details).toMatchObject({ kind: 'conflict' });
  expect(await database.transaction((tx) => store.store(tx, [second], false))).toMatchObject([
    { version: 2 },
  ]);
});

test('one key under two ids at once is stored under the first alone', async () => {
  const first = change('one key');
  const second = { ...first, memoryId: newId(), isFirst: false };
  let waiting: Promise<unknown> = Promise.resolve();
  await database.transaction(async (tx) => {
    await store.store(tx, [first], false);
    waiting = database.transaction((other) => store.store(other, [second], false)).catch((error) => error);
    await lockWait();
  });
  expect(isFault(await waiting, 'DATABASE_UNAVAILABLE')).toBe(true);
  expect(await database.transaction((tx) => store.store(tx, [second], false))).toEqual([]);
});

test('a batch is judged in its order', async () => {
  const first = change('judged');
  const next = (text: string) => change(text, { memoryId: first.memoryId, isFirst: false });
  const gone = { ...first, idempotencyKey: 'ab'.repeat(32), isFirst: false, item: undefined };
  const [b, c, d] = [next('b'), next('c'), next('d')];
  const stored = await database.transaction((tx) =>
    // The first under its derived id comes late; c twice; nothing after the deletion.
    store.store(tx, [b, first, c, c, gone, gone, d], true),
  );
  expect(stored.map(({ place, version }) => [place, version])).toEqual([
    [0, 1],
    [2, 2],
    [4, 3],
  ]);
  expect(stored.every(({ pushId }) => pushId !== undefined)).toBe(true);
  const pushes = [1, 2, 3, 4].map((version) => ({ tenant: 'acme', memoryId: first.memoryId, version }));
  const contents = await store.contents(pushes);
  expect(contents.map((content) => content?.item()?.text)).toEqual(['b', 'c', undefined, undefined]);
  expect(contents.map((content) => content !== undefined)).toEqual([true, true, true, false]);
});

test('a push that ends behind a later version ends its work and tells nothing: while replicas with and without a backend run side by side', async () => {
  const first = change('pushed late');
  const queue = workQueue(database, 'memory_sync');
  const owner = newId();
  const claims = await database.transaction(async (tx) => {
    const [stored] = await store.store(tx, [first], true);
    const row = pushRow({
      ...{ tenant: 'acme', memoryId: first.memoryId, version: 1, pushId: stored?.pushId },
      ...{ traceparent: undefined, requestId: undefined },
    });
    return (await queue.enqueueAndClaim(tx, [row], 1, { owner, leaseMs: 10_000, formats: [1] })).claims;
  });
  const [claim] = claims;
  if (claim === undefined) throw new Error('nothing was claimed');
  const next = change('stored at once', { memoryId: first.memoryId, isFirst: false });
  expect(await database.transaction((tx) => store.store(tx, [next], false))).toMatchObject([{ version: 2 }]);

  const lease = {
    ...{ owner, fence: claim.fence, signal: new AbortController().signal },
    ...{ holds: () => true, cancelled: () => undefined },
  };
  const record = walMessage({ tenant: 'acme', memoryId: first.memoryId, version: 1, item: first.item }, {});
  await store.finish(claim.item, lease, 1, record);
  const told = await own.query('select 1 from messaging.outbox where event_id = $1', [record.eventId]);
  expect(told).toEqual([]);
  expect(
    await own.query(
      `select m.version, m.state, p.state as push from memory_sync.memories m
       left join memory_sync.pushes p on p.tenant = m.tenant and p.id = memory_sync.push_id(m.memory_id, m.version)
       where m.memory_id = $1 order by 1`,
      [first.memoryId],
    ),
  ).toEqual([
    { version: 1, state: 'superseded', push: 'done' },
    { version: 2, state: 'stored', push: null },
  ]);
  // Its lane is another's by now, or nobody's: the same end again changes nothing.
  await expect(store.finish(claim.item, lease, 1, record)).rejects.toMatchObject({ code: 'LEASE_LOST' });
});

test('rows of superseded versions are forgotten in pieces, the last version stays', async () => {
  const first = change('forgotten 1');
  const next = (text: string) => change(text, { memoryId: first.memoryId, isFirst: false });
  await database.transaction((tx) => store.store(tx, [first, next('forgotten 2')], false));
  await database.transaction((tx) => store.store(tx, [next('forgotten 3')], false));
  expect(await store.forget(3_600_000, 100)).toBe(0);
  await own.query("update memory_sync.memories set superseded_at = superseded_at - interval '1 day'");
  expect(await store.forget(3_600_000, 1)).toBe(1);
  expect(await store.forget(3_600_000, 100)).toBeGreaterThanOrEqual(1);
  expect(
    await own.query('select version from memory_sync.memories where memory_id = $1', [first.memoryId]),
  ).toEqual([{ version: 3 }]);
});

async function lockWait(): Promise<void> {
  await waitFor(
    () =>
      own.query(
        'select 1 from pg_locks l join pg_database d on d.oid = l.database or l.database is null where not l.granted and d.datname = current_database()',
      ),
    (rows) => rows.length > 0,
    { label: 'the other transaction waits' },
  );
}
