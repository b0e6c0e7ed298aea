import { newId } from '@signalbox/contracts/ids';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog as log, silentMetrics as metrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { storeEvents } from './event-store.ts';
import type { StreamEvent } from './stream-event.ts';

/** What is stored of a turn's events when some of them come late, and that a redelivery is answered as the first time. */

let test: TestDatabase;
let database: Database;
let sessionId: string;
let turnId: string;

beforeAll(async () => {
  test = await createTestDatabase();
  database = openDatabase({
    url: test.url,
    poolSize: 2,
    maxOverflow: 0,
    poolTimeoutMs: 2000,
    poolRecycleMs: 600_000,
    applicationName: 'event-store-test',
    log,
    metrics,
  });
});
afterAll(async () => {
  await database?.close();
  await test?.drop();
});
beforeEach(async () => {
  sessionId = newId();
  turnId = await openTurn();
});

async function openTurn(): Promise<string> {
  const id = newId();
  await test.query(
    `insert into gateway.messages (tenant, session_id, turn_id, event_id, body) values ('acme', $1, $2, $3, '{}')`,
    [sessionId, id, newId()],
  );
  return id;
}

interface Given {
  readonly turn?: string;
  readonly attempt?: number;
  readonly epoch?: number;
  readonly eventId?: string;
}

function event(position: number, type: string, given: Given = {}): StreamEvent {
  const { turn = turnId, attempt = 1, epoch = 1, eventId = newId() } = given;
  return {
    tenant: 'acme',
    sessionId,
    at: { epoch, position: BigInt(position) },
    eventId,
    turnId: turn,
    attempt,
    type,
    kind: 'e',
    offset: 0,
    points: 0,
    body: '{}',
  };
}

const store = async (...events: StreamEvent[]) =>
  (await storeEvents(database, events)).map(({ outcome }) => outcome);
const positions = async () => {
  const rows = await test.query<{ position: string }>(
    'select position from gateway.session_events where session_id = $1 order by epoch, position',
    [sessionId],
  );
  return rows.map(({ position }) => Number(position));
};
const endOf = async (turn: string) => {
  const [row] = await test.query<{ end_position: string | null }>(
    'select end_position from gateway.messages where turn_id = $1',
    [turn],
  );
  return row?.end_position ?? null;
};

/** A takeover, what its former holder sends late, the end, and what still comes after it. */
const takenOver = () => [
  event(10, 'turn.started'),
  event(20, 'tool.started'),
  event(30, 'turn.resumed', { attempt: 2 }),
  event(35, 'turn.started'), // late
  event(40, 'assistant.final'), // late: ends nothing
  event(50, 'tool.started', { attempt: 2 }),
  event(60, 'turn.resumed', { attempt: 3 }),
  event(65, 'assistant.final', { attempt: 2 }), // late
  event(70, 'assistant.final', { attempt: 3 }),
  event(80, 'tool.result', { attempt: 3 }), // after the end
  event(85, 'assistant.error', { attempt: 4 }), // after the end
];
const kept = [10, 20, 30, 50, 60, 70];
const answers = ['stored', 'stored', 'stored', 'stale', 'stale', 'stored', 'stored', 'stale', 'stored'];

it.each([
  ['in one batch', 11],
  ['one by one', 1],
  ['in batches of three', 3],
])('keeps no event of an attempt or a turn that is over, told %s', async (_, size) => {
  const events = takenOver();
  const outcomes: string[] = [];
  for (let i = 0; i < events.length; i += size) outcomes.push(...(await store(...events.slice(i, i + size))));
  expect(outcomes).toEqual([...answers, 'stale', 'stale']);
  expect(await positions()).toEqual(kept);
  expect(await endOf(turnId)).toBe('70');

  // Appended again, from anywhere: each is answered by what lies below it, whatever came after.
  for (const from of [0, 3, 7, 10]) {
    expect(await store(...events.slice(from))).toEqual(
      events.slice(from).map(({ at }) => (kept.includes(Number(at.position)) ? 'known' : 'stale')),
    );
  }
  expect(await positions()).toEqual(kept);
});

it('judges each turn by its own events, whatever order they stand in', async () => {
  const other = await openTurn();
  expect(
    await store(
      event(5, 'turn.queued', { turn: other }),
      event(6, 'turn.started', { attempt: 2 }),
      event(7, 'turn.cancelled', { turn: other }),
      event(8, 'assistant.final', { attempt: 2 }),
      event(9, 'turn.started', { turn: other }),
    ),
  ).toEqual(['stored', 'stored', 'stored', 'stored', 'stale']);
  expect([await endOf(turnId), await endOf(other)]).toEqual(['8', '7']);
});

it('tells what the producer sent twice from what is stale', async () => {
  const final = event(3, 'assistant.final');
  expect(await store(event(2, 'turn.started'), final)).toEqual(['stored', 'stored']);
  expect(await store(final, { ...final, at: { epoch: 1, position: 4n } }, event(5, 'tool.result'))).toEqual([
    'known',
    'repeat',
    'stale',
  ]);
});

it('orders a raised epoch behind every position of the one before', async () => {
  await store(event(900, 'turn.resumed', { attempt: 2 }));
  expect(await store(event(1, 'tool.started', { epoch: 2 }))).toEqual(['stale']);
  expect(await store(event(2, 'assistant.final', { epoch: 2, attempt: 2 }))).toEqual(['stored']);
  expect(await store(event(901, 'tool.started', { attempt: 2 }))).toEqual(['stored']); // of the old log, before the end
});

it('keeps all that is told of a turn that it does not know, in one batch as in several', async () => {
  const unknown = { turn: newId() };
  expect(await store(event(1, 'assistant.final', unknown), event(2, 'tool.result', unknown))).toEqual([
    'stored',
    'stored',
  ]);
  expect(await store(event(3, 'tool.result', unknown))).toEqual(['stored']);
});
