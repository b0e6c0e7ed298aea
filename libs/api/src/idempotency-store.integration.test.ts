import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog as log, silentMetrics as metrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createIdempotencyStore, type Effect } from './idempotency-store.ts';
import { idempotencyKeysSql } from './sql/idempotency-keys.ts';
import type { Settled, Write } from './write-routes.ts';

/** Keys over replicas (each store here is one) and over connections that break at the worst moment. */

const holdLock = 4711;

let test: TestDatabase;
let proxy: FaultProxy;
let cut: Database;
let whole: Database;
let effects: number;

const open = (url: string, poolSize: number) =>
  openDatabase({
    url,
    poolSize,
    maxOverflow: 0,
    poolTimeoutMs: 5000,
    poolRecycleMs: 600_000,
    applicationName: 'idempotency-store-test',
    log,
    metrics,
  });

beforeAll(async () => {
  test = await createTestDatabase();
  await test.query('create schema probe; grant usage on schema probe to public');
  await test.query(idempotencyKeysSql({ schema: 'probe', role: 'signalbox_gateway' }));
  await test.query(
    'create table probe.effects (id uuid, held boolean); grant insert on probe.effects to public',
  );
  // COMMIT of a held row waits, inside the server, until the test lets go of the lock.
  await test.query(
    `create function probe.hold() returns trigger language plpgsql as $$
     begin perform pg_advisory_xact_lock_shared(${holdLock}); return null; end $$`,
  );
  await test.query(
    `create constraint trigger hold after insert on probe.effects deferrable initially deferred
     for each row when (new.held) execute function probe.hold()`,
  );
  proxy = await startFaultProxy({ url: test.url });
  cut = open(proxy.url, 2);
  whole = open(test.url, 6);
});
afterAll(async () => {
  await proxy.heal();
  await Promise.all([cut.close(), whole.close()]);
  await proxy.close();
  await test.drop();
});
beforeEach(() => {
  effects = 0;
});

const replica = (database: Database, timeoutMs = 8000) =>
  createIdempotencyStore({ database, schema: 'probe', timeoutMs });
const write = (given: Partial<Write> = {}): Write => ({
  tenant: 'acme',
  route: 'POST /test',
  key: newId(),
  bodyHash: Buffer.alloc(32, 1),
  ...given,
});
/** Leaves a row under an id made before the first try. */
function effect(id = newId(), held = false): Effect {
  return async (tx) => {
    effects += 1;
    await tx.query('insert into probe.effects values ($1, $2)', [id, held]);
    return { status: 201, body: { id }, location: `/effects/${id}` };
  };
}
const rowsOf = async (id: string) =>
  (await test.query('select from probe.effects where id = $1', [id])).length;

/** Runs `during` while every COMMIT of a held row waits. */
async function holdingCommits(during: () => Promise<void>): Promise<void> {
  await whole.transaction(async (tx) => {
    await tx.query(`select pg_advisory_xact_lock(${holdLock})`);
    await during();
  });
}
const commitsHeld = () =>
  waitFor(
    () =>
      test.query(
        `select from pg_stat_activity where datname = $1 and query = 'COMMIT' and wait_event = 'advisory'`,
        [test.name],
      ),
    (rows) => rows.length === 1,
    { label: 'a COMMIT to wait' },
  );

it('has one effect for a hundred at once over two replicas, each without a flight of its own', async () => {
  const [one, other] = [replica(whole), replica(whole)];
  const same = write();
  const ids = Array.from({ length: 100 }, () => newId());
  const answers = await Promise.all(ids.map((id, i) => (i % 2 ? one : other).once(same, effect(id))));
  expect(answers.filter(({ replayed }) => !replayed)).toHaveLength(1);
  for (const { answer } of answers) expect(answer).toEqual(answers[0]?.answer);
  expect(answers[0]?.answer).toMatchObject({ status: 201, location: expect.stringMatching(/^.effects/) });
  expect(effects).toBe(1);
  const stored = await Promise.all(ids.map(rowsOf));
  expect(stored.filter((rows) => rows > 0)).toEqual([1]);
});

describe.each([
  ['with a key', newId],
  ['without a key', () => undefined],
])('a write %s', (_, key) => {
  it('that was committed while its answer was lost is answered as the first, with one effect', async () => {
    const id = newId();
    let answer: Promise<Settled> | undefined;
    await holdingCommits(async () => {
      answer = replica(cut).once(write({ key: key() }), effect(id, true));
      await commitsHeld();
      proxy.blackhole('to-client');
    });
    await waitFor(
      () => rowsOf(id),
      (rows) => rows === 1,
      { label: 'the commit' },
    );
    proxy.cut();
    await proxy.heal();
    expect(await answer).toMatchObject({ replayed: false, answer: { status: 201, body: { id } } });
    expect([await rowsOf(id), effects]).toEqual([1, 1]);
  });

  it('whose connection breaks before COMMIT is done waits for that outcome, then answers from it', async () => {
    const id = newId();
    let answer: Promise<Settled> | undefined;
    await holdingCommits(async () => {
      answer = replica(cut).once(write({ key: key() }), effect(id, true));
      await commitsHeld();
      const before = proxy.accepted();
      proxy.cut();
      // Its second try stands at the key's row, which the server has not let go of.
      await waitFor(
        () => proxy.accepted(),
        (count) => count > before,
        { label: 'the second try' },
      );
    });
    expect(await answer).toMatchObject({ replayed: false, answer: { body: { id } } });
    expect([await rowsOf(id), effects]).toEqual([1, 1]);
  });

  it('whose connection breaks in the middle has its effect by the next try, under the same ids', async () => {
    const id = newId();
    const inner = effect(id);
    const answer = await replica(cut).once(write({ key: key() }), async (tx) => {
      const made = await inner(tx);
      if (effects === 1) proxy.cut();
      return made;
    });
    expect(answer).toMatchObject({ replayed: false, answer: { body: { id } } });
    expect([await rowsOf(id), effects]).toEqual([1, 2]);
  });
});

it('keeps nothing of an effect that throws: the key is free', async () => {
  const same = write();
  const store = replica(whole);
  const refused = store.once(same, async () => {
    throw fault('NOT_FOUND', 'not there');
  });
  await expect(refused).rejects.toMatchObject({ code: 'NOT_FOUND' });
  expect(await store.find(same)).toBeUndefined();
  expect(await store.once(same, effect())).toMatchObject({ replayed: false });
});

it('refuses another body, and keeps routes and tenants apart', async () => {
  const same = write();
  const store = replica(whole);
  const first = await store.once(same, effect());
  const other = { ...same, bodyHash: Buffer.alloc(32, 2) };
  await expect(store.once(other, effect())).rejects.toMatchObject({ code: 'IDEMPOTENCY_KEY_REUSED' });
  await expect(store.find(other)).rejects.toMatchObject({ code: 'IDEMPOTENCY_KEY_REUSED' });
  expect(await store.find(same)).toEqual({ ...first, replayed: true });
  expect(await store.once({ ...same, tenant: 'globex' }, effect())).toMatchObject({ replayed: false });
  expect(await store.once({ ...same, route: 'DELETE /test' }, effect())).toMatchObject({ replayed: false });
  expect(effects).toBe(3);
});

it('forgets a key when its time is over, and not before', async () => {
  const [old, young] = [write(), write()];
  const store = replica(whole);
  const first = await store.once(old, effect());
  await store.once(young, effect());
  await test.query(
    `update probe.idempotency_keys set created_at = now() - interval '24 hours 1 second' where key = $1`,
    [old.key],
  );
  await test.query(
    `update probe.idempotency_keys set created_at = now() - interval '23 hours 59 minutes' where key = $1`,
    [young.key],
  );
  await test.query(`select probe.forget_keys(interval '24 hours', 100)`);
  const again = await store.once(old, effect());
  expect(again.replayed).toBe(false);
  expect(again.answer).not.toEqual(first.answer);
  expect(await store.once(young, effect())).toMatchObject({ replayed: true });
});

it('says that the database is away when it stays away', async () => {
  await proxy.refuse();
  await expect(replica(cut, 300).once(write(), effect())).rejects.toMatchObject({
    code: 'DATABASE_UNAVAILABLE',
  });
  await proxy.heal();
});
