import { createSlots } from '@signalbox/api/slots';
import { formatStreamId, type StreamPosition } from '@signalbox/api/stream-id';
import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import type { SubscriptionListener } from '@signalbox/redis/subscriber';
import { silentLog as log } from '@signalbox/telemetry/silent';
import { waitFor } from '@signalbox/testkit/wait';
import { expect, it } from 'vitest';
import { eventOf, type TaskEvent, type TaskRef } from './task-event.ts';
import { createTaskFeeds } from './task-feeds.ts';

/** What a feed makes of wake-ups that are lost, late, doubled or out of order, of reads that fail, of slow readers. */

const task: TaskRef = { tenant: 'acme', taskId: newId() };
const at = (position: number): StreamPosition => ({ epoch: 1, position: BigInt(position) });

function subject() {
  const stored: TaskEvent[] = [];
  const listeners = new Map<string, SubscriptionListener>();
  const reads: string[] = [];
  let hold: Promise<void> | undefined;
  let failing = 0;
  let confirm: Promise<void> = Promise.resolve();
  const feeds = createTaskFeeds({
    subscriber: {
      async subscribe(channel, listener) {
        listeners.set(channel, listener);
        await confirm;
        return { end: async () => void listeners.delete(channel) };
      },
      channels: () => listeners.size,
      close: async () => undefined,
    },
    readSlots: createSlots(4),
    async readEvents(_task, after, limit) {
      reads.push(formatStreamId(after));
      if (failing > 0) {
        failing -= 1;
        throw fault('DATABASE_UNAVAILABLE', 'away');
      }
      // What a statement sees is what was there when it began.
      const page = stored.filter((event) => event.at.position > after.position).slice(0, limit);
      await hold;
      return page;
    },
    lastPlaces: async (tasks) => tasks.map(() => stored.at(-1)?.at),
    channelOf: ({ tenant, taskId }) => `${tenant}:${taskId}`,
    log,
    retryMs: 1,
    subscribeMs: 5,
  });
  const store = (...positions: number[]) =>
    stored.push(...positions.map((position) => eventOf(at(position), 'task.updated', `{"n":${position}}`)));
  const wake = (message: string) => {
    for (const listener of listeners.values()) listener.onMessage(message);
  };
  return {
    ...{ feeds, stored, listeners, reads, store, wake },
    gap() {
      for (const listener of listeners.values()) listener.onGap?.();
    },
    fail: (times: number) => (failing = times),
    holdReads: () => {
      const { promise, resolve } = Promise.withResolvers<void>();
      hold = promise;
      return () => {
        hold = undefined;
        resolve();
      };
    },
    neverConfirm: () => (confirm = new Promise(() => undefined)),
    confirmAgain: () => (confirm = Promise.resolve()),
    refuseConfirm: () => {
      confirm = Promise.reject(fault('REDIS_UNAVAILABLE', 'away'));
      confirm.catch(() => undefined);
    },
  };
}

function sink() {
  const closed = new AbortController();
  const got: number[] = [];
  const state = { bufferedBytes: 0, retryMs: 0 };
  const gates: (() => void)[] = [];
  return {
    got,
    state,
    release: () => {
      state.bufferedBytes = 0;
      for (const open of gates.splice(0)) open();
    },
    close: () => closed.abort(),
    sink: {
      send(event: TaskEvent) {
        if (closed.signal.aborted) return false;
        got.push(Number(event.at.position));
        return true;
      },
      drained: () =>
        new Promise<void>((resolve) => {
          gates.push(resolve);
          closed.signal.addEventListener('abort', () => resolve(), { once: true });
        }),
      get bufferedBytes() {
        return state.bufferedBytes;
      },
      sendAway(retryMs: number) {
        state.retryMs = retryMs;
        closed.abort();
      },
      closed: closed.signal,
    },
  };
}

const has = (got: readonly number[], wanted: readonly number[]) =>
  waitFor(
    () => got,
    (now) => now.length >= wanted.length,
    { timeoutMs: 2000, intervalMs: 1 },
  ).then(() => expect(got).toEqual(wanted));

it('reads on when a wake-up tells of more, whatever their order, and reads nothing when it tells nothing new', async () => {
  const { feeds, store, wake, reads } = subject();
  const reader = sink();
  store(1, 2);
  feeds.follow(task, at(0), reader.sink);
  await has(reader.got, [1, 2]);
  store(5, 6);
  wake('1-6');
  wake('1-5');
  await has(reader.got, [1, 2, 5, 6]);
  const before = reads.length;
  wake('1-5');
  wake('1-6');
  store(9);
  wake('1-9');
  await has(reader.got, [1, 2, 5, 6, 9]);
  expect(reads.slice(before)).toEqual(['1-6']);
  reader.close();
});

it('finds by its look what no wake-up told of, for each follower', async () => {
  const { feeds, store } = subject();
  const [early, late] = [sink(), sink()];
  feeds.follow(task, at(0), early.sink);
  store(1);
  await feeds.look();
  await has(early.got, [1]);
  store(2);
  // It reads 2 by itself; the other one must hear of that.
  feeds.follow(task, at(0), late.sink);
  await has(late.got, [1, 2]);
  await has(early.got, [1, 2]);
  early.close();
  late.close();
});

it('reads again when the channel is confirmed, and after a gap in it', async () => {
  const { feeds, store, gap, listeners } = subject();
  const reader = sink();
  feeds.follow(task, at(0), reader.sink);
  store(1);
  await has(reader.got, [1]);
  store(2);
  gap();
  await has(reader.got, [1, 2]);
  reader.close();
  await waitFor(
    () => listeners.size,
    (size) => size === 0,
    { intervalMs: 1 },
  );
  expect(feeds.tasks).toBe(0);
});

it.each(['neverConfirm', 'refuseConfirm'] as const)('goes on without Redis (%s)', async (how) => {
  const parts = subject();
  parts[how]();
  const reader = sink();
  parts.store(1);
  parts.feeds.follow(task, at(0), reader.sink);
  await has(reader.got, [1]);
  parts.store(2);
  await parts.feeds.look();
  await has(reader.got, [1, 2]);
  reader.close();
});

it('subscribes again when Redis is back: wake-ups are heard, and left with the last reader', async () => {
  const { feeds, store, wake, refuseConfirm, confirmAgain, listeners } = subject();
  refuseConfirm();
  const readers = [sink(), sink()];
  const tasks = readers.map((_, n) => ({ ...task, taskId: `task-${n}` }));
  for (const [n, { sink: each }] of readers.entries()) feeds.follow(tasks[n] ?? task, at(0), each);
  store(1);
  await feeds.look();
  for (const { got } of readers) await has(got, [1]);
  listeners.clear(); // those of the refused connection hear nothing
  confirmAgain();
  await feeds.look();
  await waitFor(
    () => listeners.size,
    (size) => size === 2,
    { intervalMs: 1 },
  );
  store(2);
  wake('1-2');
  for (const { got } of readers) await has(got, [1, 2]);
  for (const { close } of readers) close();
  await waitFor(
    () => listeners.size,
    (size) => size === 0,
    { intervalMs: 1 },
  );
});

it('does not miss what is committed while a read is under way', async () => {
  const { feeds, store, wake, holdReads, reads } = subject();
  const reader = sink();
  store(1);
  const release = holdReads();
  feeds.follow(task, at(0), reader.sink);
  await waitFor(
    () => reads.length,
    (count) => count === 1,
    { intervalMs: 1 },
  );
  store(2);
  wake('1-2');
  release();
  await has(reader.got, [1, 2]);
  reader.close();
});

it('tries a read again that the database could not answer', async () => {
  const { feeds, store, fail } = subject();
  const reader = sink();
  store(1, 2, 3);
  fail(5);
  feeds.follow(task, at(1), reader.sink);
  await has(reader.got, [2, 3]);
  reader.close();
});

it.each([31, 32, 33, 64, 100])('reads %i events page by page', async (count) => {
  const { feeds, store } = subject();
  const reader = sink();
  const all = Array.from({ length: count }, (_, n) => n + 1);
  store(...all);
  feeds.follow(task, at(0), reader.sink);
  await has(reader.got, all);
  reader.close();
});

it('reads once for all that stand at one place', async () => {
  const { feeds, store, wake, reads } = subject();
  const readers = Array.from({ length: 50 }, sink);
  for (const { sink: each } of readers) feeds.follow(task, at(0), each);
  store(1);
  wake('1-1');
  for (const { got } of readers) await has(got, [1]);
  const before = reads.length;
  store(2);
  wake('1-2');
  for (const { got } of readers) await has(got, [1, 2]);
  expect(reads.length - before).toBe(1);
  for (const { close } of readers) close();
});

it('waits for a reader whose network is full, and keeps the others going', async () => {
  const { feeds, store, wake } = subject();
  const [slow, quick] = [sink(), sink()];
  slow.state.bufferedBytes = 1_000_000;
  store(1, 2);
  feeds.follow(task, at(0), slow.sink);
  feeds.follow(task, at(0), quick.sink);
  await has(quick.got, [1, 2]);
  store(3);
  wake('1-3');
  await has(quick.got, [1, 2, 3]);
  expect(slow.got).toEqual([]);
  slow.release();
  await has(slow.got, [1, 2, 3]);
  slow.close();
  quick.close();
});

it('does not wait for events below what was told that have been pruned', async () => {
  const { feeds, store, stored, wake, reads } = subject();
  const reader = sink();
  feeds.follow(task, at(0), reader.sink);
  wake('1-7'); // its event is gone
  await waitFor(
    () => reads.length,
    (count) => count >= 1,
    { intervalMs: 1 },
  );
  const before = reads.length;
  store(8);
  wake('1-8');
  await has(reader.got, [8]);
  expect(reads.length - before).toBeLessThan(4);
  expect(stored).toHaveLength(1);
  reader.close();
});

it('sends away only who has followed long enough, a part at a time', async () => {
  const { feeds } = subject();
  const old = Array.from({ length: 120 }, sink);
  for (const { sink: each } of old) feeds.follow(task, at(0), each);
  const after = performance.now() + 0.001;
  const young = sink();
  await waitFor(
    () => performance.now(),
    (now) => now > after + 1,
    { intervalMs: 1 },
  );
  feeds.follow(task, at(0), young.sink);
  const rounds = [feeds.sendAway(after), feeds.sendAway(after)];
  expect(rounds[0]).toBe(50);
  await waitFor(
    () => feeds.sendAway(after),
    (count) => count === 0,
    { intervalMs: 1 },
  );
  expect(old.every(({ state }) => state.retryMs >= 250 && state.retryMs <= 5_250)).toBe(true);
  expect(young.state.retryMs).toBe(0);
  young.close();
});
