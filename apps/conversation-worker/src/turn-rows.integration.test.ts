import { newId } from '@signalbox/contracts/ids';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import type { OutgoingMessage } from '@signalbox/messaging/outgoing';
import { type Database, openDatabase, type Transaction } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { intakeStore } from './intake-store.ts';
import type { ClaimedTurn } from './opened-turn.ts';
import { takeMessages } from './take-messages.ts';
import type { ModelOutcome, ToolOutcomeStored } from './turn-journal.ts';
import { turnMetrics } from './turn-metrics.ts';
import { turnStore } from './turn-store.ts';

// What a turn costs is how many rows it writes (delivery rule 30): the parts of this service, table by table.

const owner = newId();
const terms = { owner, slots: 1, leaseMs: 5_000, historyTokens: 4_000 };
let own: TestDatabase;
let database: Database;

beforeAll(async () => {
  own = await createTestDatabase();
  database = openDatabase({
    ...{ url: own.url, poolSize: 1, maxOverflow: 0, poolTimeoutMs: 3_000, poolRecycleMs: 600_000 },
    ...{ applicationName: 'turn-rows', log: silentLog, metrics: silentMetrics },
  });
});
afterAll(async () => {
  await database.close();
  await own.drop();
});

/** Rows that this connection has written and not yet reported, by table: the test's own, and those of the one before. */
async function written(
  tx: Transaction,
  before: Record<string, number> = {},
): Promise<Record<string, number>> {
  const rows = await tx.query<{ name: string; n: string }>(
    `select schemaname || '.' || relname as name, n_tup_ins + n_tup_upd + n_tup_del as n
     from pg_stat_xact_user_tables where n_tup_ins + n_tup_upd + n_tup_del > 0`,
  );
  return Object.fromEntries(rows.map(({ name, n }) => [name, Number(n) - (before[name] ?? 0)]));
}

function message(topic: OutgoingMessage['topic'], key: string): OutgoingMessage {
  return { topic, key, tenant: 'acme', eventType: 'a.test', schema: 'test.v1', eventId: newId(), value: {} };
}

const said: ModelOutcome = {
  text: 'so',
  thinking_length: 0,
  calls: [],
  end: 'stop',
  model: 'm',
  input_tokens: 1,
  output_tokens: 1,
};
const answered: ToolOutcomeStored = { outcome: 'ok', output: '408', truncated: false, duration_ms: 1 };

async function begin(tx: Transaction) {
  const store = {
    ...intakeStore(tx),
    ...turnStore(tx, { writer: owner, committed: () => {}, failed: () => {} }, 'conversation-worker'),
  };
  const [sessionId, id] = [newId(), newId()];
  const key = `acme:${sessionId}`;
  const payload = {
    session_id: sessionId,
    turn_id: id,
    event_id: newId(),
    persona_id: 'plain',
    message: 'hi',
  };
  const { claims } = await store.takeMessages(tx, [{ tenant: 'acme', id, key, payload }], terms);
  const finish = (
    { item, fence }: ClaimedTurn,
    step: number,
    ...topics: readonly OutgoingMessage['topic'][]
  ) =>
    store.end(
      item,
      { owner, fence },
      {
        ...{ step, outcome: said, sessionId, history: { messages: [], tokens: 1 }, state: 'done' },
        messages: ['conversation.outbound' as const, ...topics].map((topic) => message(topic, key)),
      },
    );
  return { store, key, id, sessionId, claim: only(claims), finish };
}

function only<T>(found: readonly T[]): T {
  const [one] = found;
  if (one === undefined || found.length > 1) throw new Error(`found ${found.length} instead of one`);
  return one;
}

test('a plain turn writes its row twice, its lane twice, its step twice, and its history and final once', async () => {
  await database.transaction(async (tx) => {
    const before = await written(tx);
    const turn = await begin(tx);
    await turn.finish(turn.claim, 0);
    expect(await written(tx, before)).toEqual({
      'conversation_worker.turns': 2,
      'conversation_worker.lanes': 2,
      'conversation_worker.steps': 2,
      'conversation_worker.history': 1,
      'messaging.outbox': 1,
    });
  });
});

test('what it recalls is written with its step, and what it remembers is one row of the outbox', async () => {
  await database.transaction(async (tx) => {
    const before = await written(tx);
    const turn = await begin(tx);
    await turn.finish(turn.claim, 0, 'memory.writes');
    expect(await written(tx, before)).toEqual({
      'conversation_worker.turns': 2,
      'conversation_worker.lanes': 2,
      'conversation_worker.steps': 2,
      'conversation_worker.history': 1,
      'messaging.outbox': 2,
    });
  });
});

test('a turn with a tool goes on with one change of its row and its lane', async () => {
  await database.transaction(async (tx) => {
    const before = await written(tx);
    const turn = await begin(tx);
    const callId = 'f'.repeat(32);
    await turn.store.storeRound(
      turn.claim.item,
      { owner, fence: turn.claim.fence },
      {
        step: 0,
        outcome: said,
        toolSteps: [
          {
            ...{ step: 1, callId, outcome: undefined, waitMs: 1_000 },
            input: { tool: 'calculator', model_call_id: 'c', arguments: {} },
          },
        ],
        messages: [message('tool.requests', turn.key)],
      },
    );
    const waits = { tenant: 'acme', key: turn.key, turnId: turn.id, step: 1 };
    const arrived = { ...waits, callId, eventId: newId(), outcome: answered };
    expect(await turn.store.storeToolOutcomes(tx, [arrived])).toMatchObject([
      { fate: 'applied', attempt: 1 },
    ]);
    const goesOn = only(await turn.store.resumeTurns(tx, [waits], terms));
    expect(goesOn.opened.steps.map(({ kind }) => kind)).toEqual(['model', 'tool', 'model']);
    expect(goesOn.item.attempt).toBe(1);
    await turn.finish(goesOn, 2);
    expect(await written(tx, before)).toEqual({
      'conversation_worker.turns': 4,
      'conversation_worker.lanes': 4,
      'conversation_worker.steps': 6,
      'conversation_worker.history': 1,
      'messaging.outbox': 2,
    });
  });
});

test('an update of a task changes its step once; a repeat, and one that comes late without an end, changes nothing', async () => {
  await database.transaction(async (tx) => {
    const turn = await begin(tx);
    const callId = 'e'.repeat(32);
    await turn.store.storeRound(
      turn.claim.item,
      { owner, fence: turn.claim.fence },
      {
        ...{ step: 0, outcome: said, messages: [message('delegation.tasks', turn.key)] },
        toolSteps: [
          {
            ...{ step: 1, callId, outcome: undefined, waitMs: 1_000 },
            input: { tool: 'delegate', model_call_id: 'c', arguments: {} },
          },
        ],
      },
    );
    const before = await written(tx);
    const update = (seq: number, outcome?: ToolOutcomeStored) => ({
      ...{ tenant: 'acme', key: turn.key, turnId: turn.id, step: 1, callId, eventId: newId(), seq, outcome },
    });
    const updates = [
      update(1),
      update(1),
      update(3),
      update(2),
      update(4, answered),
      update(5),
      update(4, answered),
    ];
    const fates = await turn.store.storeTaskUpdates(tx, updates);
    expect(fates.map(({ fate }) => fate)).toEqual([
      'shown',
      'repeated',
      'shown',
      'repeated',
      'applied',
      'repeated',
      'repeated',
    ]);
    expect(await written(tx, before)).toMatchObject({ 'conversation_worker.steps': 3 });
    expect(await turn.store.storeTaskUpdates(tx, [update(6, answered)])).toMatchObject([{ fate: 'late' }]);
    const unknown = { ...update(7), callId: 'a'.repeat(32) };
    expect(await turn.store.storeTaskUpdates(tx, [unknown])).toMatchObject([{ fate: 'unknown' }]);
  });
});

test('a process of the release before ends rounds and turns with its own functions', async () => {
  await database.transaction(async (tx) => {
    const turn = await begin(tx);
    const { item, fence } = turn.claim;
    const place = [item.tenant, item.key, owner, fence, item.id, item.attempt];
    const callId = 'd'.repeat(32);
    const step = { step: 1, operation_key: callId, input: { tool: 'calculator' }, wait_ms: -1 };
    const put = [owner, ['tool.requests'], [newId()], '[{}]', [Buffer.from('{}')]];
    await tx.query(
      `select from conversation_worker.store_round($1, $2, $3, $4, $5, $6, 0, $7, $8::jsonb, 1, $9, $10::text[],
         $11::uuid[], $12::jsonb, $13::bytea[])`,
      [...place, said, JSON.stringify([step]), ...put],
    );
    const [wait] = await tx.query<{ tool: string }>('select * from conversation_worker.expired_waits(10)');
    expect(wait).toMatchObject({ turn_id: turn.id, call_id: callId, tool: 'calculator' });
    const waits = { tenant: 'acme', key: turn.key, turnId: turn.id, step: 1 };
    await turn.store.storeToolOutcomes(tx, [{ ...waits, callId, eventId: newId(), outcome: answered }]);
    const goesOn = only(await turn.store.resumeTurns(tx, [waits], terms));
    await tx.query(
      `select from conversation_worker.finish_turn($1, $2, $3, $4, $5, $6, 2, $7, $8, '[]', 1, 'done', null, $9, $10,
         '[{}]', '')`,
      [...place.with(3, goesOn.fence), said, turn.sessionId, owner, newId()],
    );
    const other = await begin(tx);
    await tx.query(
      `select from conversation_worker.cancel_turn($1, $2, $3, $4, $5, $6, 0, null, '{}', $7, null, null, $8, $9::text[],
         $10::uuid[], $11::jsonb, $12::bytea[])`,
      [...place.with(1, other.key).with(3, other.claim.fence).with(4, other.id), other.sessionId, ...put],
    );
  });
});

test('messages that wait in line are one statement, and one more where some do wait; others are one as well', async () => {
  const [sessionId, statements] = [newId(), [] as string[]];
  const take = takeMessages({
    ...{ store: intakeStore(database), historyTokens: 1_000, log: silentLog, keepOpened: () => {} },
    metrics: turnMetrics(silentMetrics, () => 0),
    worker: {
      claimWithin: async (_, within) => (await within(1, { owner, leaseMs: 5_000, formats: [1] })).result,
    },
  });
  const handle = (more: object, ...records: IntakeRecord[]) =>
    database.transaction(async (tx) => {
      statements.length = 0;
      const counted: Transaction = {
        ...tx,
        query(statement, values) {
          statements.push(typeof statement === 'string' ? statement : (statement.name ?? statement.text));
          return tx.query(statement, values);
        },
      };
      const signal = new AbortController().signal;
      await take([...records, inboundRecord(sessionId, more)], counted, { signal, duplicates: () => {} });
      return statements;
    });
  expect(await handle({})).toEqual(['conversation_worker_take_messages']);
  expect(await handle({})).toEqual(['conversation_worker_take_messages', 'conversation_worker_turns_ahead']);
  expect(await handle({ multitask_strategy: 'reject' }, inboundRecord(sessionId, {}))).toEqual([
    'conversation_worker_take_inbound',
  ]);
});

function inboundRecord(sessionId: string, more: object): IntakeRecord {
  const ids = { session_id: sessionId, turn_id: newId(), event_id: newId() };
  return {
    ...{ topic: 'conversation.inbound', partition: 0, offset: 0n, key: `acme:${sessionId}`, tenant: 'acme' },
    ...{ keyId: sessionId, sessionId, eventId: ids.event_id, eventType: 'message.posted', schema: '' },
    value: { ...ids, persona_id: 'plain', message: 'hi', accepted_at: new Date().toISOString(), ...more },
    ...{ headers: {}, bytes: null, timestampMs: Date.now(), traceparent: undefined },
  };
}
