import { newId } from '@signalbox/contracts/ids';
import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import {
  follow,
  type GatewayFixture,
  gatewayFixture,
  type OutboundEvent,
  post,
  turnEvents,
} from './gateway-fixture.ts';
import { ended, readToEnd, shape, textOf } from './read-streams.ts';

/** What a session's readers get while one turn runs and others are queued, rejected and cancelled beside it. */

let fixture: GatewayFixture;
let gateway: SpawnedService;
let other: SpawnedService;
let acme: string;
let sessionId: string;
let turnId: string;

beforeAll(async () => {
  fixture = await gatewayFixture();
  [gateway, other] = await Promise.all([fixture.start(), fixture.start()]);
  acme = fixture.keys.acme;
});
afterAll(() => fixture?.close());
beforeEach(async () => {
  const { body } = await post(gateway, acme, { message: 'first' });
  sessionId = body.session_id;
  turnId = body.turn_id;
});

const more = async (message: string) =>
  (await post(gateway, acme, { message, session_id: sessionId })).body.turn_id;
const told = (type: string, turn: string, value: Record<string, unknown> = {}): OutboundEvent => ({
  type,
  value: { turn_id: turn, attempt: 1, ...value },
});
const cancelled = (turn: string, text = '', attempt = 1) =>
  told('turn.cancelled', turn, { attempt, cause: 'requested', by: newId(), text, length: text.length });
const rejected = (turn: string) =>
  told('turn.rejected', turn, { reason: 'session_busy', busy_turn_id: turnId });

const openTurns = async () => {
  const [row] = await fixture.db.query<{ open_turns: number }>(
    `select open_turns from gateway.open_turns(array['acme'], 1000)`,
  );
  return row?.open_turns ?? 0;
};

type Turn = { message: string; answer: { event: string; data: Record<string, unknown> } | null };
const history = async () => {
  const { body } = await call<{ turns: Turn[] }>(other, `/v1/sessions/${sessionId}/history`, { key: acme });
  return body.turns.map(({ message, answer }) => [message, answer?.event, answer?.data.text]);
};

it('a running turn keeps every piece of its answer between the events of others', async () => {
  const [waits, leaves, comes] = [await more('waits'), await more('leaves'), await more('comes')];
  const before = await openTurns();
  const live = await follow(gateway, acme, sessionId);
  const pieces = ['one ', 'two ', 'three ', 'four ', 'five ', 'six'];
  const own = turnEvents(turnId, pieces);
  const between = [
    told('turn.queued', waits, { position: 1 }),
    told('turn.queued', leaves, { position: 2 }),
    cancelled(leaves),
    rejected(comes),
    told('tool.result', newId(), {
      step: 2,
      call_id: '0123456789abcdef0123456789abcdef',
      tool: 'slow',
      outcome: 'ok',
      output: 'of a turn long ago',
      truncated: false,
      duration_ms: 1,
    }),
    cancelled(waits),
  ];
  const woven = own.flatMap((event, i) => [event, ...between.slice(i, i + 1)]);
  await fixture.publish('acme', sessionId, woven);
  const seen = await live.until(ended);
  expect(seen.map(({ event }) => event)).toEqual(woven.map(({ type }) => type));
  expect(textOf(seen, turnId)).toBe(pieces.join(''));
  expect(shape(await readToEnd(other, acme, sessionId, '0-0'))).toEqual(shape(seen));
  for (const { id } of seen.slice(0, -1)) {
    const rest = await readToEnd(other, acme, sessionId, id);
    expect(shape(rest)).toEqual(shape(seen.slice(seen.length - rest.length)));
  }
  expect(await history()).toEqual([
    ['first', 'assistant.final', pieces.join('')],
    ['waits', 'turn.cancelled', ''],
    ['leaves', 'turn.cancelled', ''],
    ['comes', 'turn.rejected', undefined],
  ]);
  expect(await openTurns()).toBe(before - 4);
  await live.close();
});

it('a turn that is cancelled in its answer keeps what stands of it, and its late text is not shown', async () => {
  const next = await more('next');
  const before = await openTurns();
  const [started, one, two, late, final] = turnEvents(turnId, ['half ', 'an ', 'answer']);
  if (!started || !one || !two || !late || !final) throw new Error('no events');
  await fixture.publish('acme', sessionId, [started, one, two, cancelled(turnId, 'half an ')]);
  await waitFor(openTurns, (open) => open === before - 1, { label: 'the turn to have ended' });
  await fixture.publish('acme', sessionId, [late, ...turnEvents(next, ['an', 'other']), late]);
  const seen = await readToEnd(gateway, acme, sessionId, '0-0');
  expect(textOf(seen, turnId)).toBe('half an ');
  expect(textOf(seen, next)).toBe('another');
  expect(seen.find(({ event }) => event === 'turn.cancelled')?.data).toMatchObject({
    text: 'half an ',
    length: 8,
    cause: 'requested',
  });
  expect(await history()).toEqual([
    ['first', 'turn.cancelled', 'half an '],
    ['next', 'assistant.final', 'another'],
  ]);
});

it('a holder that lost its lease shows nothing, whatever is told of other turns meanwhile', async () => {
  const [waits, comes] = [await more('waits'), await more('comes')];
  const attempt2 = turnEvents(turnId, ['from ', 'B'], 2);
  const zombie = (at: number): OutboundEvent => told('assistant.delta', turnId, { at, text: 'from A' });
  const [resumed, from, b, final] = [
    told('turn.resumed', turnId, { attempt: 2, keep_chars: 0 }),
    ...attempt2.slice(1),
  ];
  if (!resumed || !from || !b || !final) throw new Error('no events');
  await fixture.publish('acme', sessionId, [
    ...turnEvents(turnId, ['fro']).slice(0, 2),
    resumed,
    zombie(3),
    cancelled(waits),
    zombie(0),
    from,
    rejected(comes),
    zombie(5),
    b,
    final,
    cancelled(comes),
    zombie(6),
  ]);
  const seen = await readToEnd(other, acme, sessionId, '0-0');
  const from2 = seen.slice(seen.findIndex(({ event }) => event === 'turn.resumed'));
  expect(textOf(from2, turnId)).toBe('from B');
  expect(JSON.stringify(seen)).not.toContain('from A');
});
