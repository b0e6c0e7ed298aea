import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import {
  finalEvent,
  follow,
  type GatewayFixture,
  gatewayFixture,
  post,
  turnEvents,
} from './gateway-fixture.ts';
import { ended, readToEnd, shape } from './read-streams.ts';

/** What streams make of a Redis that is away, slow or has lost its memory, and of entries that it no longer has. */

let fixture: GatewayFixture;
let proxy: FaultProxy;
let gateway: SpawnedService;
let acme: string;
let sessionId: string;
let turnId: string;

beforeAll(async () => {
  fixture = await gatewayFixture();
  const redis = new URL(testInfra().redisUrl);
  proxy = await startFaultProxy({ host: redis.hostname, port: Number(redis.port) });
  gateway = await fixture.start({ REDIS_URL: `redis://127.0.0.1:${proxy.port}` });
  acme = fixture.keys.acme;
});
afterAll(async () => {
  await proxy?.heal();
  await fixture?.close();
  await proxy?.close();
});
beforeEach(async () => {
  await proxy.heal();
  const { body } = await post(gateway, acme, { message: 'hello' });
  sessionId = body.session_id;
  turnId = body.turn_id;
});

const keys = (kind: string) => `${fixture.redisPrefix}stream:{acme:${sessionId}}:${kind}`;

const whole = (lastEventId?: string) => readToEnd(gateway, acme, sessionId, lastEventId, 20_000);

it('appends again what an emptied Redis has lost, and only then answers a resume', async () => {
  const pieces = ['a', 'b', 'c', 'd', 'e'];
  await fixture.publish('acme', sessionId, turnEvents(turnId, pieces));
  const all = await whole();
  await fixture.emptyRedis();
  // In the middle of the text: Postgres alone could not tell the pieces.
  expect(shape(await whole(all[2]?.id))).toEqual(shape(all.slice(3)));
  // The answer waits for the partition of the session alone.
  await waitFor(
    () => gateway.metric('gateway_stream_rebuilds_total'),
    (rebuilt = 0) => rebuilt > 6,
    { label: 'all partitions rebuilt' },
  );
});

it('ends a rebuild whose last record is poison', async () => {
  const events = turnEvents(turnId, ['a', 'b']);
  await fixture.publish('acme', sessionId, events);
  const all = await whole();
  const poison = { type: 'turn.started', value: { turn_id: 5 } };
  await fixture.publish('acme', sessionId, [poison]);
  await gateway.log('consumer.dead_letter');
  await fixture.emptyRedis();
  expect(shape(await whole(all[0]?.id))).toEqual(shape(all.slice(1)));
});

it('appends again what is missing in a Redis that comes back with old data', async () => {
  const pieces = ['one ', 'two ', 'three'];
  const events = turnEvents(turnId, pieces);
  await fixture.publish('acme', sessionId, events.slice(0, 2));
  const live = await follow(gateway, acme, sessionId);
  await live.until((seen) => seen.length === 2);
  const bringBack = await fixture.snapshotRedis();
  await fixture.publish('acme', sessionId, events.slice(2));
  const all = [...(await live.until(ended))];
  await live.close();
  await bringBack();
  // No record comes meanwhile that could show it, and the boot value says `ready`.
  expect(shape(await whole(all[1]?.id))).toEqual(shape(all.slice(2)));
});

it('goes on for a reader that is live while Redis loses its memory', async () => {
  const stream = await follow(gateway, acme, sessionId);
  const events = turnEvents(turnId, ['one ', 'two ', 'three ', 'four']);
  await fixture.publish('acme', sessionId, events.slice(0, 3));
  await stream.until((seen) => seen.length === 3);
  await fixture.emptyRedis();
  await fixture.publish('acme', sessionId, events.slice(3));
  const seen = await stream.until(ended, 20_000);
  expect(new Set(seen.map(({ id }) => id)).size).toBe(seen.length);
  expect(shape(seen)).toEqual(shape(await whole()));
  expect(seen).toHaveLength(events.length);
  await stream.close();
});

it('fills from Postgres what the stream no longer has', async () => {
  await fixture.publish('acme', sessionId, turnEvents(turnId, ['old text']));
  const [started, delta, final] = await whole();
  const next = (await post(gateway, acme, { message: 'next', session_id: sessionId })).body.turn_id;
  await fixture.redis.run((client) => client.del(keys('entries'), keys('state'))); // expired
  await fixture.publish('acme', sessionId, turnEvents(next, ['new text']));
  const after = await whole(started?.id);
  // The delta before it is in no store any more, and the final carries the whole text.
  expect(after[0]?.id).toBe(final?.id);
  await using stream = await follow(gateway, acme, sessionId, { lastEventId: delta?.id ?? '' });
  const rest = await stream.until(
    (events) => events.filter(({ event }) => event === 'assistant.final').length === 2,
  );
  expect(rest.map(({ event }) => event)).toEqual([
    'assistant.final',
    'turn.started',
    'assistant.delta',
    'assistant.final',
  ]);
});

it('fills the gap of a trimmed stream between two entries', async () => {
  await fixture.publish('acme', sessionId, turnEvents(turnId, ['x', 'y', 'z']));
  const all = await whole();
  await fixture.redis.run((client) => client.xtrim(keys('entries'), 'MAXLEN', 2));
  const seen = await whole('0-0');
  expect(seen[0]?.id).toBe(all[0]?.id);
  expect(seen.map(({ event }) => event)).toEqual(['turn.started', 'assistant.delta', 'assistant.final']);
});

it('waits with an open stream while Redis is away, and then shows all in order', async () => {
  const events = turnEvents(turnId, ['be', 'fore ', 'and ', 'after']);
  const live = await follow(gateway, acme, sessionId);
  await fixture.publish('acme', sessionId, events.slice(0, 3));
  await live.until((seen) => seen.length === 3);
  await proxy.refuse();
  const opened = await follow(gateway, acme, sessionId);
  await fixture.publish('acme', sessionId, events.slice(3));
  expect((await post(gateway, acme, { message: 'still accepting' })).status).toBe(202);
  await proxy.heal();
  expect(shape(await live.until(ended, 20_000))).toEqual(shape(await opened.until(ended, 20_000)));
  expect(live.events).toHaveLength(events.length);
  await Promise.all([live.close(), opened.close()]);
});

it('finds the way back to the log when Redis hangs in the middle of a batch', async () => {
  const stream = await follow(gateway, acme, sessionId);
  const pieces = Array.from({ length: 30 }, (_, i) => `${i},`);
  const publishing = fixture.publish('acme', sessionId, turnEvents(turnId, pieces));
  await stream.until((seen) => seen.length > 5);
  proxy.blackhole();
  await waitFor(
    () =>
      fixture.db.query('select from gateway.messages where turn_id = $1 and ended_at is not null', [turnId]),
    (rows) => rows.length === 1,
    { label: 'the final in Postgres', timeoutMs: 15_000 },
  ).catch(() => undefined); // the partition may already stand still before it
  await proxy.heal();
  await publishing;
  const seen = await stream.until(ended, 25_000);
  const text = seen
    .filter(({ event }) => event === 'assistant.delta')
    .map(({ data }) => (data as { text: string }).text);
  expect(text.join('')).toBe(pieces.join(''));
  await stream.close();
}, 60_000);

it('cuts a reader that takes nothing, and lets it resume', async () => {
  const small = await fixture.start({ STREAM_MAX_STALL_MS: '1000' });
  const response = await fetch(`${small.url}/v1/session/${sessionId}/events`, {
    headers: { 'x-api-key': acme },
  });
  expect(response.status).toBe(200);
  const big = 'x'.repeat(300_000);
  const deltas = Array.from({ length: 30 }, (_, i) => ({
    type: 'assistant.delta',
    value: { turn_id: turnId, attempt: 1, at: i * big.length, text: big },
  }));
  await fixture.publish('acme', sessionId, deltas);
  await waitFor(
    () => small.metric('http_streams_ended_total', { reason: 'slow' }),
    (count) => count === 1,
    { label: 'the slow reader to be cut', timeoutMs: 15_000 },
  );
  await response.body?.cancel().catch(() => undefined);
  await fixture.publish('acme', sessionId, [finalEvent(turnId, 'x')]);
  const seen = await whole();
  expect(seen.filter(({ event }) => event === 'assistant.delta')).toHaveLength(30);
}, 60_000);
