import { newId } from '@signalbox/contracts/ids';
import { call } from '@signalbox/testkit/api-call';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import type { SpawnedService } from '@signalbox/testkit/service';
import { type SseEvent, SseRefused } from '@signalbox/testkit/sse';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type DelegationFixture,
  delegationFixture,
  follow,
  reached,
  submit,
  type Told,
} from './delegation-fixture.ts';

let fixture: DelegationFixture;
let first: SpawnedService;
let second: SpawnedService;
/** Behind a network that can be cut from Redis, with quick keepalives. */
let third: SpawnedService;
let redis: FaultProxy;
let acme: string;

beforeAll(async () => {
  fixture = await delegationFixture();
  const { hostname: host, port } = new URL(testInfra().redisUrl);
  redis = await startFaultProxy({ host, port: Number(port) });
  [first, second, third] = await Promise.all([
    fixture.start(),
    fixture.start(),
    fixture.start({
      REDIS_URL: `redis://127.0.0.1:${redis.port}`,
      STREAM_KEEPALIVE_MS: '300',
      STREAM_RETRY_MS: '1234',
    }),
  ]);
  acme = fixture.keys.acme;
});
afterAll(async () => {
  await redis?.heal();
  await fixture?.close();
  await redis?.close();
});

const made = async () => (await submit(first, acme)).body.task_id;
const running = (seq: number, progress = `step ${seq}`): Told => ({ seq, status: 'running', progress });
const completed = (seq: number): Told => ({ seq, status: 'completed', result: { n: seq } });
const seqOf = ({ data }: SseEvent) => (data as { seq?: number }).seq;
const seqs = (events: readonly SseEvent[]) => events.map(seqOf);
const counted = async (result: string) => {
  const counts = await Promise.all(
    [first, second, third].map((service) => service.metric('delegation_gateway_updates_total', { result })),
  );
  return counts.reduce<number>((sum, count) => sum + (count ?? 0), 0);
};

describe('the stream of a task', () => {
  it('misses nothing for a client that connects before, between and after, on either replica', async () => {
    const taskId = await made();
    const early = await follow(first, acme, taskId);
    const receipts = await fixture.tell('acme', taskId, [{ seq: 1, status: 'queued' }, running(2)]);
    const between = await follow(second, acme, taskId);
    receipts.push(...(await fixture.tell('acme', taskId, [running(3), completed(4)])));
    const late = await follow(second, acme, taskId);
    for (const stream of [early, between, late]) {
      const events = await stream.until((seen) => seen.length === 4);
      expect(seqs(events)).toEqual([1, 2, 3, 4]);
      expect(events.map(({ id }) => id)).toEqual(receipts.map(({ offset }) => `1-${offset}`));
      expect(new Set(events.map(({ event }) => event))).toEqual(new Set(['task.updated']));
      expect(events[3]?.data).toMatchObject({
        task_id: taskId,
        status: 'completed',
        result: { n: 4 },
        trace_id: expect.stringMatching(/^[0-9a-f]{32}$/),
      });
    }
    // It stays open: what became of the callback is told after the end.
    await fixture.tell('acme', taskId, [{ webhook: { status: 'delivered', attempts: 1 } }]);
    for (const stream of [early, between, late]) {
      expect(await stream.event(({ event }) => event === 'webhook.updated')).toMatchObject({
        data: { status: 'delivered', attempts: 1 },
      });
      await stream.close();
    }
  });

  it('resumes after every single event on the other replica without gap or repeat', async () => {
    const taskId = await made();
    await fixture.tell('acme', taskId, [running(1), running(2), running(3), completed(4)]);
    const whole = await follow(first, acme, taskId);
    const all = [...(await whole.until((seen) => seen.length === 4))];
    await whole.close();
    for (const [index, { id = '' }] of all.slice(0, -1).entries()) {
      const rest = await follow(second, acme, taskId, { lastEventId: id });
      expect(seqs(await rest.until((seen) => seen.length >= 3 - index))).toEqual(seqs(all.slice(index + 1)));
      await rest.close();
    }
  });

  it('carries hundreds of events to many readers, each once and in order', async () => {
    const taskId = await made();
    const streams = await Promise.all(
      Array.from({ length: 20 }, (_, n) => follow(n % 2 === 0 ? first : second, acme, taskId)),
    );
    await fixture.tell('acme', taskId, [
      ...Array.from({ length: 199 }, (_, n) => running(n + 1)),
      completed(200),
    ]);
    const wanted = Array.from({ length: 200 }, (_, n) => n + 1);
    for (const stream of streams) {
      expect(seqs(await stream.until((seen) => seen.length >= 200, 20_000))).toEqual(wanted);
      await stream.close();
    }
  });

  it('refuses what is no id of it, and the stream of a task that nobody made', async () => {
    const taskId = await made();
    for (const lastEventId of [
      'x',
      '1',
      '1-',
      '-1',
      '01-1',
      '1-01',
      '2-5',
      '1-9223372036854775808',
      '1 -1',
    ]) {
      const refused = await follow(first, acme, taskId, { lastEventId }).catch((error: unknown) => error);
      expect(refused).toMatchObject({ status: 400 });
    }
    for (const id of [newId(), 'x', newId().toUpperCase()]) {
      await expect(follow(first, acme, id)).rejects.toBeInstanceOf(SseRefused);
      expect((await call(first, `/v1/delegation/task/${id}/events`, { key: acme })).status).toBe(404);
    }
  });

  it('keeps its readers with comments while nothing happens', async () => {
    const stream = await follow(third, acme, await made());
    await waitFor(
      () => stream.comments.length,
      (count) => count >= 1,
    );
    expect(stream.retryMs()).toBe(1234);
    expect(await third.metric('gateway_sse_connections')).toBe(1);
    await stream.close();
  });
});

describe('updates', () => {
  it('that come again, late or backwards change nothing and are counted', async () => {
    const taskId = await made();
    const before = {
      repeat: await counted('repeat'),
      late: await counted('late'),
      backwards: await counted('backwards'),
    };
    const done = { ...completed(5), eventId: newId() };
    const [, , applied] = await fixture.tell('acme', taskId, [
      { seq: 3, status: 'running' },
      { seq: 2, status: 'input_required' }, // late
      done,
      done, // the producer sent it twice
      { seq: 4, status: 'running' }, // late
      { seq: 5, status: 'failed' }, // late: another event of the same seq
      { seq: 6, status: 'running' }, // backwards
      { seq: 7, status: 'cancelled' }, // backwards: it has ended
    ]);
    await waitFor(
      async () => (await counted('late')) - before.late,
      (count) => count === 3,
    );
    await waitFor(
      async () => (await counted('backwards')) - before.backwards,
      (count) => count === 2,
    );
    expect((await counted('repeat')) - before.repeat).toBe(1);
    const { body } = await call(first, `/v1/delegation/task/${taskId}`, { key: acme });
    expect(body).toMatchObject({ status: 'completed', seq: 5, result: { n: 5 } });
    const stream = await follow(first, acme, taskId);
    await fixture.tell('acme', taskId, [{ webhook: { status: 'delivered', attempts: 1 } }]);
    const events = await stream.until((seen) => seen.length >= 3);
    expect(events.map(({ event }) => event)).toEqual(['task.updated', 'task.updated', 'webhook.updated']);
    expect([seqs(events).slice(0, 2), events[1]?.id]).toEqual([[3, 5], `1-${applied?.offset}`]);
    await stream.close();
  });

  it('that no task of their key names become dead letters, and the partition goes on', async () => {
    const taskId = await made();
    await fixture.tell('acme', taskId, [{ ...running(1), task_id: newId() }, running(2)]);
    await reached(first, acme, taskId, 'running');
    const letters = await waitFor(
      () => fixture.db.query('select 1 from messaging.dead_letters'),
      (rows) => rows.length > 0,
    );
    expect(letters).toHaveLength(1);
  });
});

it('events past their time are 410 to resume from, ended tasks past theirs are gone, keys too', async () => {
  const [openTask, endedTask] = [await made(), await made()];
  await fixture.tell('acme', openTask, [running(1), running(2), running(3)]);
  await fixture.tell('acme', endedTask, [completed(1)]);
  await reached(first, acme, endedTask, 'completed');
  const stream = await follow(first, acme, openTask);
  const ids = (await stream.until((seen) => seen.length === 3)).map(({ id = '' }) => id);
  await stream.close();
  await fixture.db.query(
    `update delegation_gateway.task_events set stored_at = now() - interval '31 days'
       where task_id = $1 and data like '%"seq":3%' is false`,
    [openTask],
  );
  await fixture.db.query(
    `update delegation_gateway.tasks set ended_at = now() - interval '31 days' where task_id = $1`,
    [endedTask],
  );
  await fixture.db.query(
    `update delegation_gateway.idempotency_keys set created_at = now() - interval '25 hours'`,
  );
  await fixture.upkeep('tasks');
  await fixture.upkeep('idempotency_keys');
  const status = async (lastEventId: string) =>
    await follow(second, acme, openTask, { lastEventId }).then(
      async (opened) => {
        await opened.close();
        return 200;
      },
      (error: { status: number }) => error.status,
    );
  expect([await status(ids[0] ?? ''), await status(ids[1] ?? '')]).toEqual([410, 200]);
  const whole = await follow(second, acme, openTask);
  expect(seqs(await whole.until((seen) => seen.length >= 1))).toEqual([3]);
  await whole.close();
  expect((await call(first, `/v1/delegation/task/${endedTask}`, { key: acme })).status).toBe(404);
  expect(
    await fixture.db.query('select 1 from delegation_gateway.task_events where task_id = $1', [endedTask]),
  ).toEqual([]);
  expect(await fixture.db.query('select 1 from delegation_gateway.idempotency_keys')).toEqual([]);
});

it('a Redis that is away costs about a second, and no event', async () => {
  const taskId = await made();
  const before = await follow(third, acme, taskId);
  await fixture.tell('acme', taskId, [running(1)]);
  await before.until((seen) => seen.length === 1);
  await redis.refuse();
  const during = await follow(third, acme, taskId);
  await during.until((seen) => seen.length === 1);
  const toldAt = performance.now();
  await fixture.tell('acme', taskId, [running(2)]);
  for (const stream of [before, during]) {
    const event = await stream.event((each) => seqOf(each) === 2);
    expect(event.atMs - toldAt).toBeLessThan(4_000);
  }
  await redis.heal();
  await fixture.tell('acme', taskId, [completed(3)]);
  for (const stream of [before, during]) {
    expect(seqs(await stream.until((seen) => seen.length >= 3))).toEqual([1, 2, 3]);
    await stream.close();
  }
});

it('a stop ends streams with times to come back that differ, and exits 0', async () => {
  const taskId = await made();
  const streams = await Promise.all(Array.from({ length: 20 }, () => follow(third, acme, taskId)));
  third.kill('SIGTERM');
  expect(await Promise.all(streams.map(({ ended }) => ended))).toEqual(streams.map(() => 'server'));
  const hints = streams.map((stream) => stream.retryMs() ?? 0);
  expect(new Set(hints).size).toBeGreaterThan(10);
  expect(Math.min(...hints)).toBeGreaterThanOrEqual(250);
  expect(Math.max(...hints)).toBeLessThanOrEqual(5_250);
  expect(await third.exited).toEqual({ code: 0, signal: null });
});
