import type { MultitaskStrategy } from '@signalbox/contracts/conversation-inbound';
import { newId } from '@signalbox/contracts/ids';
import { type Database, openDatabase, type Transaction } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { waitFor } from '@signalbox/testkit/wait';
import { workQueue } from '@signalbox/work/queue';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type CancelRow, type InboundRow, intakeStore, type MessageRow, type Taken } from './intake-store.ts';

// What becomes of messages and actions is decided in Postgres: here it is asked directly, one transaction against another.

const owner = newId();
let own: TestDatabase;
let database: Database;

beforeAll(async () => {
  own = await createTestDatabase();
  database = openDatabase({
    ...{ url: own.url, poolSize: 4, maxOverflow: 0, poolTimeoutMs: 3_000, poolRecycleMs: 600_000 },
    ...{ applicationName: 'take-in-order', log: silentLog, metrics: silentMetrics },
  });
});
afterAll(async () => {
  await database?.close();
  await own?.drop();
});

const store = () => intakeStore(database);
const queue = () => workQueue(database, 'conversation_worker');
const terms = (slots: number) => ({ owner, slots, leaseMs: 60_000, historyTokens: 1_000 });
const keyOf = (sessionId: string) => `acme:${sessionId}`;

function message(sessionId: string, strategy: MultitaskStrategy = 'enqueue'): MessageRow {
  const id = newId();
  const ids = { session_id: sessionId, turn_id: id, event_id: newId() };
  return {
    ...{ tenant: 'acme', key: keyOf(sessionId), id, format: 1, strategy },
    payload: { ...ids, persona_id: 'plain', message: 'hi' },
  };
}
function cancel(sessionId: string, turnId?: string): CancelRow {
  return { tenant: 'acme', key: keyOf(sessionId), cancels: newId(), turnId, reason: undefined };
}

const take = (rows: readonly InboundRow[], slots = 0): Promise<Taken[]> =>
  database.transaction((tx) => store().takeInOrder(tx, rows, terms(slots)));
const whats = (taken: readonly Taken[]) => taken.map(({ what }) => what);
/** What happened, with turns by their place in `names`. */
const told = (taken: readonly Taken[], names: readonly string[]) =>
  taken.map((each) => ({
    ...{ place: each.place, what: each.what },
    ...('turnId' in each ? { turn: names.indexOf(each.turnId) } : {}),
    ...('ahead' in each ? { ahead: each.ahead } : {}),
    ...('busyTurnId' in each ? { busy: names.indexOf(each.busyTurnId) } : {}),
    ...('cancel' in each ? { cause: each.cancel.cause } : {}),
  }));
const states = async (sessionId: string) =>
  (
    await own.query<{ state: string }>(
      'select state from conversation_worker.turns where key = $1 order by seq',
      [keyOf(sessionId)],
    )
  ).map(({ state }) => state);
const someoneWaits = () =>
  waitFor(
    () =>
      own.query(
        `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
      ),
    (rows) => rows.length > 0,
    { label: 'a statement that waits for a lock' },
  );
/** A session with a turn that this process runs. */
async function running(sessionId = newId()) {
  const row = message(sessionId);
  const [taken] = await take([row], 1);
  if (taken?.what !== 'claimed') throw new Error(`the turn was ${taken?.what}`);
  const { item, fence } = taken.turn;
  const finish = (tx: Transaction) => queue().finish(tx, item, { owner, fence }, 'done');
  return { sessionId, id: row.id, item, holder: { owner, fence }, finish };
}
async function parked() {
  const turn = await running();
  await queue().park(database, turn.item, turn.holder, 1);
  return turn;
}

test('a batch of one session is taken as if its records came one by one', async () => {
  const starts = [
    async () => newId(),
    async () => (await running()).sessionId,
    async () => (await parked()).sessionId,
  ];
  for (let round = 0; round < 60; round += 1) {
    const [batch, single] = [await starts[round % 3]?.(), await starts[round % 3]?.()];
    if (batch === undefined || single === undefined) throw new Error('no session');
    const one: InboundRow[] = [];
    const other: InboundRow[] = [];
    const ids: [string[], string[]] = [[], []];
    for (let n = 0; n < 8; n += 1) {
      const die = Math.random();
      const some = Math.floor(Math.random() * n);
      if (die < 0.15) {
        one.push(cancel(batch));
        other.push(cancel(single));
      } else if (die < 0.3) {
        one.push(cancel(batch, ids[0][some] ?? newId()));
        other.push(cancel(single, ids[1][some] ?? newId()));
      } else {
        const strategy = die < 0.6 ? 'enqueue' : die < 0.8 ? 'reject' : 'interrupt';
        const [a, b] = [message(batch, strategy), message(single, strategy)];
        ids[0].push(a.id);
        ids[1].push(b.id);
        one.push(a);
        other.push(b);
      }
    }
    const together = told(await take(one), ids[0]);
    const apart: Taken[] = [];
    for (const [place, row] of other.entries())
      apart.push(...(await take([row])).map((each) => ({ ...each, place })));
    // A turn that was parked is claimed to be ended at the end of a call; the rest comes in the same order.
    const claims = ({ what }: { what: string }) => what === 'claimed_to_end';
    expect(together.filter((each) => !claims(each))).toEqual(
      told(apart, ids[1]).filter((each) => !claims(each)),
    );
    expect(together.filter(claims)).toHaveLength(apart.filter(claims).length);
    expect(await states(batch)).toEqual(await states(single));
    // And again: all of it has had its effect.
    expect(new Set(whats(await take(one)))).toEqual(new Set(['repeated']));
    expect(await states(batch)).toEqual(await states(single));
  }
});

test('of a free session what a batch itself ends is never begun, the rest is', async () => {
  const [a, b, c, d] = [newId(), newId(), newId(), newId()];
  expect(whats(await take([message(a), message(a, 'reject')], 4))).toEqual(['claimed', 'rejected']);
  expect(whats(await take([message(b), message(b, 'interrupt')], 4))).toEqual([
    ...['taken', 'cancelled', 'claimed'],
  ]);
  expect(whats(await take([message(c), cancel(c), message(c, 'reject')], 4))).toEqual([
    ...['taken', 'cancelled', 'claimed'],
  ]);
  const rows = [
    message(d),
    message(d, 'reject'),
    message(d, 'interrupt'),
    message(d),
    message(d, 'interrupt'),
  ];
  expect(whats(await take(rows, 4))).toEqual([
    ...['taken', 'rejected', 'cancelled', 'taken', 'taken', 'cancelled', 'cancelled', 'claimed'],
  ]);
  expect(await states(d)).toEqual(['cancelled', 'rejected', 'cancelled', 'cancelled', 'running']);
});

test('a parked turn is claimed with its cancel, even where there is no slot', async () => {
  const turn = await parked();
  const action = cancel(turn.sessionId);
  const taken = await take([action, message(turn.sessionId)], 0);
  expect(whats(taken)).toEqual(['flagged', 'taken', 'claimed_to_end']);
  expect(taken[2]).toMatchObject({
    turn: { item: { id: turn.id, attempt: 1, cancel: { cause: 'requested', by: action.cancels } } },
  });
  expect(await states(turn.sessionId)).toEqual(['running', 'ready']);
});

test('the holder’s end comes first: the message that would not wait finds a free session', async () => {
  for (const strategy of ['reject', 'interrupt'] as const) {
    const turn = await running();
    let taking: Promise<Taken[]> | undefined;
    await database.transaction(async (tx) => {
      await turn.finish(tx);
      taking = take([message(turn.sessionId, strategy)], 1);
      await someoneWaits();
    });
    expect(whats((await taking) ?? [])).toEqual(['claimed']);
    expect(await states(turn.sessionId)).toEqual(['done', 'running']);
  }
});

test('the message comes first: the holder’s end waits for it, and stands', async () => {
  for (const [strategy, what, end] of [
    ['reject', ['rejected'], ['done', 'rejected']],
    ['interrupt', ['flagged', 'taken'], ['done', 'ready']],
  ] as const) {
    const turn = await running();
    let finishing: Promise<boolean> | undefined;
    await database.transaction(async (tx) => {
      const taken = await store().takeInOrder(tx, [message(turn.sessionId, strategy)], terms(1));
      expect(whats(taken)).toEqual(what);
      finishing = database.transaction(turn.finish);
      await someoneWaits();
    });
    await finishing;
    expect(await states(turn.sessionId)).toEqual(end);
    // A cancel that comes now finds an ended turn.
    expect(whats(await take([cancel(turn.sessionId, turn.id)]))).toEqual([]);
  }
});

test('two replicas that have the same records at once: one takes them, the other finds them taken', async () => {
  const turn = await running();
  const rows = [
    message(turn.sessionId, 'reject'),
    cancel(turn.sessionId),
    message(turn.sessionId, 'interrupt'),
    message(turn.sessionId),
  ];
  let second: Promise<Taken[]> | undefined;
  await database.transaction(async (tx) => {
    expect(whats(await store().takeInOrder(tx, rows, terms(1)))).toEqual([
      ...['rejected', 'flagged', 'taken', 'taken'],
    ]);
    second = take(rows, 1);
    await someoneWaits();
  });
  expect(whats((await second) ?? [])).toEqual(['repeated', 'repeated', 'repeated', 'repeated']);
  expect(await states(turn.sessionId)).toEqual(['running', 'rejected', 'ready', 'ready']);
});

test('the first message of a session and one that would not wait, by two replicas: the second is rejected', async () => {
  const sessionId = newId();
  let second: Promise<Taken[]> | undefined;
  await database.transaction(async (tx) => {
    await store().takeMessages(tx, [message(sessionId)], terms(1));
    second = take([message(sessionId, 'reject')], 1);
    await someoneWaits();
  });
  expect(whats((await second) ?? [])).toEqual(['rejected']);
});

test('batches over many sessions in any order never wait for each other in a circle', async () => {
  const sessions = Array.from({ length: 12 }, () => newId());
  const shuffled = () => [...sessions].sort(() => Math.random() - 0.5);
  const kinds = [
    (id: string) => message(id),
    (id: string) => message(id, 'reject'),
    (id: string) => message(id, 'interrupt'),
    (id: string) => cancel(id),
  ];
  const batch = () => shuffled().map((id) => kinds[Math.floor(Math.random() * 4)]?.(id) ?? message(id));
  // A deadlock would be an error of one of them, after a second.
  await Promise.all(
    Array.from({ length: 4 }, async () => {
      for (let n = 0; n < 15; n += 1) await take(batch(), 2);
    }),
  );
});

test('a tool’s outcome and the end of its cancelled turn never wait for each other in a circle', async () => {
  const turn = await parked();
  const arrived = {
    ...{ tenant: 'acme', key: keyOf(turn.sessionId), turnId: turn.id, step: 1, callId: 'f'.repeat(32) },
    ...{ eventId: newId(), outcome: { outcome: 'ok', output: '', truncated: false, duration_ms: 1 } },
  };
  await own.query(
    `insert into conversation_worker.steps (tenant, turn_id, step, kind, operation_key, input, attempt)
     values ('acme', $1, 1, 'tool', $2, '{}', 1)`,
    [turn.id, arrived.callId],
  );
  const [, taken] = await take([cancel(turn.sessionId)]);
  if (taken?.what !== 'claimed_to_end') throw new Error(`it was ${taken?.what}`);
  const holder = { owner, fence: taken.turn.fence };
  let storing: Promise<unknown> | undefined;
  await database.transaction(async (tx) => {
    await queue().hold(tx, taken.turn.item, holder);
    storing = database.transaction((other) => store().storeToolOutcomes(other, [arrived]));
    await someoneWaits();
    // It holds nothing that this transaction still needs.
    await tx.query(`select set_config('app.tenant', 'acme', true)`);
    await tx.query(
      `update conversation_worker.steps set outcome = '{"outcome":"cancelled"}' where turn_id = $1 and step = 1`,
      [turn.id],
    );
    await queue().finish(tx, taken.turn.item, holder, 'cancelled');
  });
  expect(await storing).toMatchObject([{ fate: 'late' }]);
});
