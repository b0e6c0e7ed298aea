import { sessionKey } from '@signalbox/contracts/keys';
import { topics } from '@signalbox/contracts/topics';
import { partitionOf } from '@signalbox/messaging/murmur2';
import { call } from '@signalbox/testkit/api-call';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import type { SpawnedService } from '@signalbox/testkit/service';
import type { SseEvent } from '@signalbox/testkit/sse';
import { waitFor } from '@signalbox/testkit/wait';
import { afterEach, beforeEach, expect, it } from 'vitest';
import {
  finalEvent,
  follow,
  type GatewayFixture,
  gatewayFixture,
  gatewayTopics,
  post,
  turnEvents,
} from './gateway-fixture.ts';
import { ended, eventfulTurn, readToEnd, rise, shape, textOf } from './read-streams.ts';

/** What a session's readers see of a gateway that dies at the worst moment, and of a log that begins anew. */

let fixture: GatewayFixture;
let acme: string;
let sessionId: string;
let turnId: string;

beforeEach(async () => {
  fixture = await gatewayFixture();
  acme = fixture.keys.acme;
});
afterEach(() => fixture?.close());

async function begin(service: SpawnedService): Promise<void> {
  const { body } = await post(service, acme, { message: 'hello' });
  sessionId = body.session_id;
  turnId = body.turn_id;
}
const beginning = '0-0';
const partition = () =>
  partitionOf(sessionKey('acme', sessionId), topics['conversation.outbound'].partitions);
const bootOf = () =>
  fixture.redis.run((client) => client.hget(`${fixture.redisPrefix}stream:boot`, String(partition())));
const entries = () =>
  fixture.redis.run((client) => client.xlen(`${fixture.redisPrefix}stream:{acme:${sessionId}}:entries`));

it.each([
  ['events are in Postgres and not yet in Redis', 'stream.stored'],
  ['events are in Redis and their offset not yet kept', 'stream.appended'],
])(
  'a gateway that dies when %s loses and repeats nothing',
  async (_, point) => {
    // One record a batch, so that the death falls in the middle of the turn.
    const dying = await fixture.start({ FAIL_POINT: `${point}:7` });
    await begin(dying);
    const turn = eventfulTurn(turnId);
    const live = await follow(dying, acme, sessionId, { lastEventId: beginning });
    for (const [k, event] of turn.entries()) {
      await fixture.publish('acme', sessionId, [event]);
      if (k < 6) await live.until((seen) => seen.length > k);
    }
    expect(await dying.exited).toMatchObject({ signal: 'SIGKILL' });
    const seen: SseEvent[] = [...live.events];
    expect(seen.length).toBeLessThan(turn.length);
    const other = await fixture.start();
    seen.push(...(await readToEnd(other, acme, sessionId, seen.at(-1)?.id, 30_000)));
    expect(seen.map(({ event }) => event)).toEqual(turn.map(({ type }) => type));
    expect(rise(seen.map(({ id }) => id))).toBe(true);
    expect(shape(await readToEnd(other, acme, sessionId, beginning))).toEqual(shape(seen));
    const stored = await fixture.db.query('select from gateway.session_events where session_id = $1', [
      sessionId,
    ]);
    expect(stored).toHaveLength(turn.filter(({ type }) => !/delta|thinking/.test(type)).length);
  },
  90_000,
);

it('a gateway that dies together with a Redis that comes back with old data costs no event', async () => {
  const short = { STREAM_REBUILD_SECONDS: '1' }; // the old data ends long before
  const dying = await fixture.start(short);
  await begin(dying);
  const events = turnEvents(turnId, ['one ', 'two ', 'three']);
  await fixture.publish('acme', sessionId, events.slice(0, 2));
  const live = await follow(dying, acme, sessionId, { lastEventId: beginning });
  await live.until((seen) => seen.length === 2);
  const bringBack = await fixture.snapshotRedis();
  await fixture.publish('acme', sessionId, events.slice(2));
  const all = [...(await live.until(ended))];
  await waitFor(
    () => dying.metric('consumer_lag', { topic: 'conversation.outbound' }),
    (lag) => lag === 0,
  );
  dying.kill('SIGTERM'); // its offsets are committed: nobody would read these records again
  await dying.exited;
  await bringBack();
  const other = await fixture.start(short);
  const next = (await post(other, acme, { message: 'next', session_id: sessionId })).body.turn_id;
  await fixture.publish('acme', sessionId, turnEvents(next, ['four']).slice(0, 1));
  const seen = await readToEnd(other, acme, sessionId, all[1]?.id, 30_000);
  expect(shape(seen).slice(0, 3)).toEqual(shape(all.slice(2)));
  await other.log('stream.rebuild_done', (record) => record.partition === partition());
}, 60_000);

it('a gateway that dies in the middle of a rebuild leaves it to another one, which finishes it', async () => {
  const redis = new URL(testInfra().redisUrl);
  await using proxy = await startFaultProxy({ host: redis.hostname, port: Number(redis.port) });
  const dying = await fixture.start({ REDIS_URL: `redis://127.0.0.1:${proxy.port}` });
  await begin(dying);
  const pieces = Array.from({ length: 400 }, (_, i) => `${i} ${'x'.repeat(20_000)} `);
  await fixture.publish('acme', sessionId, turnEvents(turnId, pieces).slice(0, -1));
  const live = await follow(dying, acme, sessionId, { lastEventId: beginning });
  const before = [...(await live.until((seen) => seen.length === pieces.length + 1, 30_000))];

  proxy.slow(150);
  await fixture.emptyRedis();
  await waitFor(entries, (count) => count > 0 && count < 300, {
    label: 'a part of the entries to be there again',
    timeoutMs: 20_000,
    intervalMs: 5,
  });
  dying.kill('SIGKILL');
  await dying.exited;
  expect(await bootOf()).toMatch(/^[0-9a-f-]{36}$/);
  expect(await entries()).toBeLessThan(pieces.length);

  const other = await fixture.start();
  const lastEventId = before[100]?.id;
  const resumed = await follow(other, acme, sessionId, lastEventId === undefined ? {} : { lastEventId });
  await fixture.publish('acme', sessionId, [finalEvent(turnId, 'a final may not be as long')]);
  const rest = await resumed.until(ended, 40_000);
  expect(await bootOf()).toBe('ready');
  await other.log('stream.rebuild_done', (record) => record.partition === partition());
  expect(shape(rest.slice(0, -1))).toEqual(shape(before.slice(101)));
  expect(textOf([...before.slice(0, 101), ...rest])).toBe(pieces.join(''));
  await resumed.close();
}, 120_000);

it('ids of the epoch before the log was made anew are resumed: what is kept of it, then the new one', async () => {
  const old = await fixture.start();
  await begin(old);
  await fixture.publish('acme', sessionId, turnEvents(turnId, ['the ', 'old ', 'one']));
  const first = await readToEnd(old, acme, sessionId, beginning);
  // An open turn goes on in the new log; its text there begins anew, as after every takeover.
  const next = (await post(old, acme, { message: 'next', session_id: sessionId })).body.turn_id;
  await fixture.publish('acme', sessionId, turnEvents(next, ['ne', 'w']).slice(0, 2));
  await waitFor(entries, (count) => count === 7, { label: 'the beginning of the next turn' });
  expect(await old.stop()).toMatchObject({ code: 0 });
  await fixture.topics.drop();
  await fixture.topics.create(...gatewayTopics);

  const raised = await fixture.start({ STREAM_EPOCH: '2' });
  await fixture.publish('acme', sessionId, [
    { type: 'turn.resumed', value: { turn_id: next, attempt: 2, keep_chars: 0 } },
    { type: 'assistant.delta', value: { turn_id: next, attempt: 2, at: 0, text: 'new' } },
    finalEvent(next, 'new', 2),
  ]);
  const two = (events: readonly SseEvent[]) =>
    events.filter(({ event }) => event === 'assistant.final').length === 2;
  await using stream = await follow(raised, acme, sessionId, { lastEventId: beginning });
  const all = [...(await stream.until(two, 30_000))];
  expect(rise(all.map(({ id }) => id))).toBe(true);
  expect(shape(all.slice(0, first.length))).toEqual(shape(first));
  expect(all.slice(-3).map(({ id }) => id)).toEqual(['2-0', '2-1', '2-2']);
  expect(textOf(all.slice(-3), next)).toBe('new');
  for (const [k, { id = '' }] of all.slice(0, -1).entries()) {
    const rest = await follow(raised, acme, sessionId, { lastEventId: id });
    const events = await rest.until((seen) => seen.length === all.length - k - 1);
    expect(shape(events)).toEqual(shape(all.slice(k + 1)));
    await rest.close();
  }

  // Redis holds no text of the old log any more, and the old log is gone: its stored events are all that is kept.
  await fixture.emptyRedis();
  const kept = all.filter(({ id = '', event }) => id.startsWith('2-') || event !== 'assistant.delta');
  await using late = await follow(raised, acme, sessionId, { lastEventId: first[1]?.id ?? '' });
  const rest = await late.until(two, 30_000);
  expect(shape(rest)).toEqual(shape(kept.slice(1)));

  // One that this gateway cannot have sent is none; a gateway that was not raised yet refuses those of one that was.
  for (const [service, id] of [
    [raised, '3-0'],
    [await fixture.start(), '2-1'],
  ] as const) {
    const refused = follow(service, acme, sessionId, { lastEventId: id });
    await expect(refused).rejects.toMatchObject({ status: 400 });
  }
  const page = await call<{ events: { id: string }[] }>(raised, `/v1/sessions/${sessionId}/events`, {
    key: acme,
  });
  expect(page.body.events.map(({ id }) => id)).toEqual(
    all.filter(({ event }) => event !== 'assistant.delta').map(({ id }) => id),
  );
}, 120_000);
