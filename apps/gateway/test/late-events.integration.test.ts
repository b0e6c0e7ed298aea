import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import {
  finalEvent,
  follow,
  type GatewayFixture,
  gatewayFixture,
  type OutboundEvent,
  post,
  turnEvents,
} from './gateway-fixture.ts';
import { readToEnd, shape } from './read-streams.ts';

/** What a holder that lost its lease sends late is seen neither in the stream nor in what Postgres keeps. */

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

const of = (attempt: number, more: Record<string, unknown>) => ({ turn_id: turnId, attempt, ...more });
const toolStarted = (attempt: number): OutboundEvent => ({
  type: 'tool.started',
  value: of(attempt, {
    step: 1,
    call_id: '0123456789abcdef0123456789abcdef',
    tool: 'calculator',
    arguments: {},
  }),
});
const delta = (attempt: number, at: number, text: string): OutboundEvent => ({
  type: 'assistant.delta',
  value: of(attempt, { at, text }),
});

const stored = async () => {
  type Page = { events: { id: string; event: string }[] };
  const { body } = await call<Page>(other, `/v1/sessions/${sessionId}/events`, { key: acme });
  return body.events.map(({ event }) => event);
};

async function forget(): Promise<void> {
  const key = (kind: string) => `${fixture.redisPrefix}stream:{acme:${sessionId}}:${kind}`;
  await fixture.redis.run((client) => client.del(key('entries'), key('state')));
}

const finals = (count: number) => (events: readonly { event: string }[]) =>
  events.filter(({ event }) => event === 'assistant.final').length === count;

it('of the attempt before a takeover', async () => {
  const [started] = turnEvents(turnId, []);
  const resumed = { type: 'turn.resumed', value: of(2, { keep_chars: 0 }) };
  if (started === undefined) throw new Error('a turn begins');
  const late = [started, toolStarted(1), delta(1, 4, 'late'), finalEvent(turnId, 'late', 1)];
  await fixture.publish('acme', sessionId, [started, delta(1, 0, 'half'), resumed]);
  await fixture.publish('acme', sessionId, [...late, delta(2, 0, 'whole'), finalEvent(turnId, 'whole', 2)]);
  const seen = await readToEnd(gateway, acme, sessionId, '0-0');
  expect(seen.map(({ event }) => event)).toEqual([
    'turn.started',
    'assistant.delta',
    'turn.resumed',
    'assistant.delta',
    'assistant.final',
  ]);
  expect(seen.at(-1)?.data).toMatchObject({ text: 'whole', attempt: 2 });
  expect(await stored()).toEqual(['turn.started', 'turn.resumed', 'assistant.final']);
  await fixture.emptyRedis(); // all of it is judged again
  expect(shape(await readToEnd(other, acme, sessionId, '0-0', 20_000))).toEqual(shape(seen));
  await forget();
  expect((await readToEnd(gateway, acme, sessionId, '0-0')).map(({ event }) => event)).toEqual(
    await stored(),
  );
}, 60_000);

it('of a turn that has ended, while the next one runs', async () => {
  await fixture.publish('acme', sessionId, turnEvents(turnId, ['one']));
  const next = (await post(gateway, acme, { message: 'next', session_id: sessionId })).body.turn_id;
  const events = turnEvents(next, ['two ', 'three']);
  const late = [toolStarted(1), delta(1, 3, ' late'), toolStarted(2), finalEvent(turnId, 'again', 2)];
  await fixture.publish('acme', sessionId, [...events.slice(0, 2), ...late, ...events.slice(2)]);
  await using stream = await follow(gateway, acme, sessionId, { lastEventId: '0-0' });
  const seen = await stream.until(finals(2));
  expect(seen.map(({ event, data }) => [event, (data as { turn_id: string }).turn_id])).toEqual([
    ...turnEvents(turnId, ['one']).map(({ type }) => [type, turnId]),
    ...events.map(({ type }) => [type, next]),
  ]);
  expect(await stored()).toEqual(['turn.started', 'assistant.final', 'turn.started', 'assistant.final']);
}, 60_000);
