import { newId } from '@signalbox/contracts/ids';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog as log, silentMetrics as metrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { type AcceptRow, createAcceptStore } from './accept-store.ts';

/** The accept statement where it is hard: its answer lost, a bad row in its tick, several tenants, the same key twice. */

let test: TestDatabase;
let proxy: FaultProxy;
let database: Database;
const published: string[] = [];
const writer = newId();
const options = {
  outbox: {
    writer,
    committed: (rows: readonly { eventId: string }[]) => published.push(...rows.map((row) => row.eventId)),
  },
  route: 'POST /test',
  timeoutMs: 8000,
};

beforeAll(async () => {
  test = await createTestDatabase();
  proxy = await startFaultProxy({ url: test.url });
  database = openDatabase({
    url: proxy.url,
    poolSize: 2,
    maxOverflow: 0,
    poolTimeoutMs: 2000,
    poolRecycleMs: 600_000,
    applicationName: 'accept-store-test',
    log,
    metrics,
  });
});
afterAll(async () => {
  await proxy.heal();
  await database.close();
  await proxy.close();
  await test.drop();
});
beforeEach(() => {
  published.length = 0;
});

function row(given: Partial<AcceptRow> = {}): AcceptRow {
  const ids = { sessionId: newId(), eventId: newId(), turnId: newId() };
  const value = { session_id: ids.sessionId, turn_id: ids.turnId, event_id: ids.eventId, message: 'x' };
  return {
    tenant: 'acme',
    ...ids,
    isNew: true,
    personaId: 'assistant',
    idempotency: undefined,
    headers: { event_id: ids.eventId },
    valueTail: JSON.stringify(value).slice(1),
    ...given,
  };
}

const keyed = (key: string, given: Partial<AcceptRow> = {}) =>
  row({ idempotency: { key, bodyHash: Buffer.alloc(32, 1) }, ...given });
const countOf = async (turnId: string) =>
  (await test.query('select from gateway.messages where turn_id = $1', [turnId])).length;
const outboxOf = (eventId: string) =>
  test.query<{ writer: string | null }>('select writer from messaging.outbox where event_id = $1', [eventId]);

it('repeats a statement whose answer was lost under the same ids: one effect, and the relay sends it', async () => {
  const store = createAcceptStore({ ...options, database });
  await store([row()]); // a connection and its plan
  const [plain, withKey] = [row(), keyed(newId())];
  proxy.blackhole('to-client');
  const answer = store([plain, withKey]);
  await waitFor(
    () => countOf(withKey.turnId),
    (count) => count === 1,
    { label: 'the commit' },
  );
  proxy.cut();
  await proxy.heal();
  expect((await answer).map((outcome) => outcome.kind)).toEqual(['accepted', 'accepted']);
  for (const each of [plain, withKey]) {
    expect(await countOf(each.turnId)).toBe(1);
    // This process never learned the rows' ids, so it must not be the one that sends them.
    expect(await outboxOf(each.eventId)).toEqual([{ writer: null }]);
    expect(published).not.toContain(each.eventId);
  }
});

it('lets a bad row fail alone: its tick, its tenant and the other tenants are stored', async () => {
  const store = createAcceptStore({ ...options, database });
  const bad = row({ valueTail: '"broken' });
  const rows = [row(), bad, row(), row({ tenant: 'globex' })];
  const kinds = (await store(rows)).map((outcome) => outcome.kind);
  expect(kinds).toEqual(['accepted', 'failed', 'accepted', 'accepted']);
  for (const each of rows) {
    expect(await countOf(each.turnId)).toBe(each === bad ? 0 : 1);
    expect(await outboxOf(each.eventId)).toHaveLength(each === bad ? 0 : 1);
  }
  expect(published).toHaveLength(3);
});

it('gives 64 tenants of one tick each their own rows', async () => {
  const store = createAcceptStore({ ...options, database });
  const rows = Array.from({ length: 256 }, (_, i) => row({ tenant: `t${i % 64}` }));
  const outcomes = await store(rows);
  expect(new Set(outcomes.map((outcome) => outcome.kind))).toEqual(new Set(['accepted']));
  const stored = await test.query<{ tenant: string; turn_id: string }>(
    `select tenant, turn_id from gateway.messages where tenant like 't%'`,
  );
  const tenants = new Map(stored.map((each) => [each.turn_id, each.tenant]));
  expect(rows.every((each) => tenants.get(each.turnId) === each.tenant)).toBe(true);
});

it('never lets two ticks with the same keys in opposite order wait for each other in a circle', async () => {
  const stores = [createAcceptStore({ ...options, database }), createAcceptStore({ ...options, database })];
  for (let round = 0; round < 20; round += 1) {
    const keys = Array.from({ length: 8 }, () => newId());
    const tenants = ['acme', 'globex'];
    const rowsOf = (order: readonly string[]) =>
      order.flatMap((key) => tenants.map((tenant) => keyed(key, { tenant })));
    const answers = await Promise.all([stores[0]?.(rowsOf(keys)), stores[1]?.(rowsOf([...keys].reverse()))]);
    const kinds = answers.flat().map((outcome) => outcome?.kind);
    expect(kinds.filter((kind) => kind === 'accepted')).toHaveLength(16);
    expect(kinds.filter((kind) => kind === 'replayed')).toHaveLength(16);
  }
});

it('says that the database is away when it stays away', async () => {
  const store = createAcceptStore({ ...options, database, timeoutMs: 300 });
  await proxy.refuse();
  await expect(store([row()])).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
  await proxy.heal();
});
