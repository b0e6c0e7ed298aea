import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { openWebSocket } from '@signalbox/testkit/websocket';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { follow, type GatewayFixture, gatewayFixture, post } from './gateway-fixture.ts';
import { eventfulTurn, readToEnd, rise, shape, textOf } from './read-streams.ts';

/** A whole turn with tools, thinking and a takeover, cut at every place and resumed on the other replica. */

let fixture: GatewayFixture;
let one: SpawnedService;
let two: SpawnedService;
let acme: string;
let sessionId: string;
let turnId: string;

beforeAll(async () => {
  fixture = await gatewayFixture();
  [one, two] = await Promise.all([fixture.start(), fixture.start()]);
  acme = fixture.keys.acme;
});
afterAll(() => fixture?.close());
beforeEach(async () => {
  const { body } = await post(one, acme, { message: 'hello' });
  sessionId = body.session_id;
  turnId = body.turn_id;
});

interface Shown {
  readonly id: string;
  readonly event: string;
  readonly data: unknown;
}

/** One connection: what came over it so far, and its cut. */
interface Connection {
  readonly events: readonly Shown[];
  cut(): Promise<void>;
}

type Open = (service: SpawnedService, after: string) => Promise<Connection>;

const transports: readonly (readonly [name: string, open: Open])[] = [
  [
    'SSE',
    async (service, after) => {
      const stream = await follow(service, acme, sessionId, { lastEventId: after });
      return {
        get events() {
          return stream.events.map(({ id = '', event, data }) => ({ id, event, data }));
        },
        cut: () => stream.close(),
      };
    },
  ],
  [
    'WebSocket',
    async (service, after) => {
      const socket = await openWebSocket(`${service.url}/v1/session/${sessionId}/ws?last_event_id=${after}`, {
        headers: { 'x-api-key': acme },
      });
      return {
        get events() {
          return socket.messages as readonly Shown[];
        },
        cut: () => socket.close(),
      };
    },
  ],
];

const beginning = '0-0';

/** The first `count` events of a connection, whatever else has come. */
async function take(connection: Connection, count: number): Promise<readonly Shown[]> {
  const events = await waitFor(
    () => connection.events,
    (now) => now.length >= count,
    { label: `${count} events`, timeoutMs: 20_000 },
  );
  return events.slice(0, count);
}

async function read(open: Open, service: SpawnedService, after: string, count: number) {
  const connection = await open(service, after);
  const events = await take(connection, count);
  await connection.cut();
  return events;
}

describe.each(transports)('over %s', (_, open) => {
  it('a finished turn is whole for a reader cut after any of its events', async () => {
    const turn = eventfulTurn(turnId);
    await fixture.publish('acme', sessionId, turn);
    const all = await read(open, one, beginning, turn.length);
    expect(all.map(({ event }) => event)).toEqual(turn.map(({ type }) => type));
    expect(rise(all.map(({ id }) => id))).toBe(true);
    for (let k = 1; k < turn.length; k += 1) {
      const before = await read(open, one, beginning, k);
      const rest = await read(open, two, before.at(-1)?.id ?? beginning, turn.length - k);
      expect([...before, ...rest]).toEqual(all);
    }
  });

  it('a turn under way is whole for a reader that is cut after each event and comes back elsewhere', async () => {
    const turn = eventfulTurn(turnId);
    const seen: Shown[] = [];
    for (const [k, event] of turn.entries()) {
      const connecting = open(k % 2 === 0 ? one : two, seen.at(-1)?.id ?? beginning);
      await fixture.publish('acme', sessionId, [event]);
      const connection = await connecting;
      await take(connection, 1);
      // What it got is what counts for the next `after`: more than one only if something came twice.
      seen.push(...connection.events);
      await connection.cut();
    }
    expect(seen.map(({ event }) => event)).toEqual(turn.map(({ type }) => type));
    expect(rise(seen.map(({ id }) => id))).toBe(true);
    expect(await read(open, one, beginning, turn.length)).toEqual(seen);
  });
});

it('a Redis that is emptied after each event costs no reader anything, live or resumed elsewhere', async () => {
  const turn = eventfulTurn(turnId);
  const [, openSse] = transports[0] ?? [];
  const [, openSocket] = transports[1] ?? [];
  if (openSse === undefined || openSocket === undefined) throw new Error('no transports');
  const live = await Promise.all([openSse(one, beginning), openSocket(two, beginning)]);
  const seen: Shown[] = [];
  for (const [k, event] of turn.entries()) {
    await fixture.publish('acme', sessionId, [event]);
    const resumed = await openSse(k % 2 === 0 ? two : one, seen.at(-1)?.id ?? beginning);
    await take(resumed, 1);
    seen.push(...resumed.events);
    await resumed.cut();
    for (const each of live) await take(each, k + 1);
    await fixture.emptyRedis();
  }
  const all = await readToEnd(one, acme, sessionId, beginning, 20_000);
  expect(all.map(({ event }) => event)).toEqual(turn.map(({ type }) => type));
  expect(rise(all.map(({ id }) => id))).toBe(true);
  const expected = all.map(({ id, event, data }) => ({ id, event, data }));
  expect(seen).toEqual(expected);
  for (const each of live) {
    expect(each.events).toEqual(expected);
    await each.cut();
  }
  expect(shape(await readToEnd(two, acme, sessionId, beginning, 20_000))).toEqual(shape(all));
  const resumedAt = all.findIndex(({ event }) => event === 'turn.resumed');
  expect(textOf(all.slice(resumedAt))).toBe('One two three.');
}, 120_000);
