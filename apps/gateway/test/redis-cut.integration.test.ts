import { newId } from '@signalbox/contracts/ids';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import type { SpawnedService } from '@signalbox/testkit/service';
import { openSse } from '@signalbox/testkit/sse';
import { waitFor } from '@signalbox/testkit/wait';
import { openWebSocket } from '@signalbox/testkit/websocket';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { finalEvent, follow, type GatewayFixture, gatewayFixture, post } from './gateway-fixture.ts';
import { ended, shape } from './read-streams.ts';

/** A replica that is cut off from Redis alone, beside one that is not. */

const graceMs = 2_000;
let fixture: GatewayFixture;
let proxy: FaultProxy;
let cutOff: SpawnedService;
let other: SpawnedService;
let acme: string;
let sessionId: string;
let turnId: string;

beforeAll(async () => {
  fixture = await gatewayFixture();
  proxy = await startFaultProxy({ url: testInfra().redisUrl });
  [cutOff, other] = await Promise.all([
    fixture.start({
      REDIS_URL: proxy.url,
      READY_GRACE_MS: `${graceMs}`,
      // A group of its own: the other one takes in every partition, so that events reach the streams meanwhile.
      KAFKA_GROUP_ID: `${fixture.topics.prefix}aside`,
    }),
    fixture.start(),
  ]);
  acme = fixture.keys.acme;
});
afterAll(async () => {
  await proxy?.heal();
  await fixture?.close();
  await proxy?.close();
});
beforeEach(async () => {
  await proxy.heal();
  await cutOff.ready();
  ({ session_id: sessionId, turn_id: turnId } = (await post(other, acme, { message: 'hello' })).body);
});

const unready = () =>
  waitFor(
    async () => (await fetch(`${cutOff.url}/ready`)).status,
    (status) => status === 503,
    { label: 'unready' },
  );

const started = () => ({
  type: 'turn.started',
  value: { turn_id: turnId, attempt: 1, persona_id: 'assistant', message_event_id: newId() },
});

it('ends its streams when Redis has been silent for longer than the grace, and their clients go on elsewhere', async () => {
  await fixture.publish('acme', sessionId, [started()]);
  const stream = await follow(cutOff, acme, sessionId);
  const socket = await openWebSocket(`${cutOff.url}/v1/session/${sessionId}/ws`, {
    headers: { 'x-api-key': acme },
  });
  await stream.until((events) => events.length === 1, 15_000);
  await socket.until((messages) => messages.length === 2, 15_000);
  const cutAt = performance.now();
  proxy.blackhole();
  await fixture.publish('acme', sessionId, [finalEvent(turnId, 'done')]);
  expect(await stream.ended).toBe('server');
  expect(performance.now() - cutAt).toBeGreaterThan(graceMs);
  expect(stream.retryMs()).toBeGreaterThanOrEqual(250);
  expect(await socket.closed).toMatchObject({ code: 1013 });
  const resumed = await openSse(`${other.url}/v1/session/${sessionId}/events`, {
    headers: { 'x-api-key': acme },
    lastEventId: stream.lastEventId() ?? '',
  });
  const rest = await resumed.until(ended);
  await resumed.close();
  expect(shape(rest)).toHaveLength(1);
  await cutOff.log('streams.sent_away');
  await unready();
}, 30_000);

it('gives a stream that opens meanwhile the same time', async () => {
  await proxy.refuse();
  await unready();
  const openedAt = performance.now();
  const stream = await follow(cutOff, acme, sessionId);
  expect(await stream.ended).toBe('server');
  expect(performance.now() - openedAt).toBeGreaterThan(graceMs * 0.9);
}, 30_000);

it('keeps its streams over a cut that is shorter', async () => {
  await fixture.publish('acme', sessionId, [started()]);
  const stream = await follow(cutOff, acme, sessionId);
  await stream.until((events) => events.length === 1, 15_000);
  await proxy.refuse();
  await fixture.publish('acme', sessionId, [finalEvent(turnId, 'done')]);
  await cutOff.log('check.changed', ({ check, to }) => check === 'redis' && to === 'down');
  await proxy.heal();
  expect(await stream.until(ended, 15_000)).toHaveLength(2);
  await stream.close();
}, 30_000);
