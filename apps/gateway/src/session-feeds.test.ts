import { comparePositions, type StreamPosition } from '@signalbox/api/stream-id';
import type { SubscriptionListener } from '@signalbox/redis/subscriber';
import { silentLog as log } from '@signalbox/telemetry/silent';
import { waitFor } from '@signalbox/testkit/wait';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { StreamPage } from './read-stream.ts';
import { createSessionFeeds } from './session-feeds.ts';
import { entryOf, type StreamEntry } from './stream-event.ts';

const session = { tenant: 'acme', sessionId: 's' };
const at = (position: number): StreamPosition => ({ epoch: 1, position: BigInt(position) });
const entry = (position: number): StreamEntry =>
  entryOf(at(position), 'assistant.delta', `{"n":${position}}`);

/** The truth: what a read finds. The test says which wake-ups are heard, and when. */
let stream: StreamEntry[];
let reads: number;
/** Set: reads wait for it, and answer what was there when they began. */
let gate: Promise<void> | undefined;
let emptied: boolean;
let listener: SubscriptionListener | undefined;
let closing: AbortController;

beforeEach(() => {
  stream = [entry(7)];
  reads = 0;
  gate = undefined;
  emptied = false;
  closing = new AbortController();
});
afterEach(() => closing.abort());

const feeds = () =>
  createSessionFeeds({
    subscriber: {
      async subscribe(_channel, given) {
        listener = given;
        return { end: async () => undefined };
      },
      channels: () => 1,
      close: async () => undefined,
    },
    async readStream(_session, after): Promise<StreamPage> {
      reads += 1;
      if (emptied) return { state: 'rebuilding' };
      const entries = stream.filter((each) => comparePositions(each.at, after) > 0);
      await gate;
      return { state: 'read', entries, more: false };
    },
    channelOf: () => 'channel',
    readWake(message) {
      if (!message.includes('>')) return undefined;
      const [prev = '', ...positions] = message.split('>');
      return { prev: `1-${prev}`, entries: positions.map((position) => entry(Number(position))) };
    },
    log,
    retryMs: 1,
  });

type Feeds = ReturnType<typeof feeds>;

/** Retries that followers were sent away with. */
const away: number[] = [];

function follow(to: Feeds, after: number, takes = () => true): number[] {
  const got: number[] = [];
  to.follow(session, at(after), {
    send(each) {
      if (!takes()) return false;
      got.push(Number(each.at.position));
      return true;
    },
    drained: async () => undefined,
    bufferedBytes: 0,
    sendAway: (retryMs) => void away.push(retryMs),
    closed: closing.signal,
  });
  return got;
}

const settle = () => new Promise((resolve) => setImmediate(resolve));
const wake = (message: string) => listener?.onMessage(message);
const expectGot = (got: number[], wanted: number[]) =>
  waitFor(
    () => got.join(),
    (seen) => seen === wanted.join(),
    { timeoutMs: 1000, label: `entries ${wanted.join()}` },
  );

/** A follower that stands at 7 and is live; counts reads from here on. */
async function live(): Promise<{ all: Feeds; got: number[] }> {
  const all = feeds();
  const got = follow(all, 6);
  await expectGot(got, [7]);
  await settle();
  reads = 0;
  return { all, got };
}

it('sends what a fitting wake-up carries without a read, one after the other', async () => {
  const { got } = await live();
  wake('7>8>9');
  wake('9>12');
  expect(got).toEqual([7, 8, 9, 12]); // in the same call
  await settle();
  expect(reads).toBe(0);
});

it('reads what a lost wake-up did not bring', async () => {
  const { got } = await live();
  stream.push(entry(8), entry(9)); // 8 is not heard
  wake('8>9');
  await expectGot(got, [7, 8, 9]);
  stream.push(entry(10));
  wake('9>10');
  expect(got.at(-1)).toBe(10); // in step again
});

it('reads after a gap in hearing', async () => {
  const { got } = await live();
  stream.push(entry(8));
  listener?.onGap?.();
  await expectGot(got, [7, 8]);
});

it('sends each entry once when wake-ups come out of order', async () => {
  const { got } = await live();
  stream.push(entry(8), entry(9));
  wake('8>9');
  wake('7>8'); // while the read is under way
  await expectGot(got, [7, 8, 9]);
  wake('7>8'); // and long after it
  await settle();
  wake('9>10');
  await settle();
  expect(got).toEqual([7, 8, 9, 10]);
});

it('finds nothing new for a wake-up of an ignored id', async () => {
  const { got } = await live();
  wake('7>8');
  stream.push(entry(8));
  wake('1-8');
  await settle();
  expect(got).toEqual([7, 8]);
  expect(reads).toBe(1);
});

it('does not take a wake-up at its word while it reads', async () => {
  const { got } = await live();
  const { promise, resolve } = Promise.withResolvers<void>();
  gate = promise;
  wake('1-7'); // the read looks before 8 is there
  stream.push(entry(8));
  wake('7>8');
  expect(got).toEqual([7]);
  gate = undefined;
  resolve();
  await expectGot(got, [7, 8]);
  await settle();
  expect(got).toEqual([7, 8]);
});

it('lets a follower that catches up meanwhile miss nothing and get nothing twice', async () => {
  const { all, got } = await live();
  const { promise, resolve } = Promise.withResolvers<void>();
  gate = promise;
  const late = follow(all, 6);
  await waitFor(
    () => reads,
    (count) => count === 1,
    { timeoutMs: 1000, label: 'the read of the late one' },
  );
  stream.push(entry(8));
  wake('7>8'); // live ones get it now; the read of the late one began before it
  expect(got).toEqual([7, 8]);
  gate = undefined;
  resolve();
  await expectGot(late, [7, 8]);
  await settle();
  wake('8>9');
  expect([got, late]).toEqual([
    [7, 8, 9],
    [7, 8, 9],
  ]);
});

it('hands one that is full back to its own reading', async () => {
  const { all, got } = await live();
  let full = false;
  const slow = follow(all, 6, () => !full);
  await expectGot(slow, [7]);
  await settle();
  full = true;
  stream.push(entry(8));
  wake('7>8');
  expect([got, slow]).toEqual([[7, 8], [7]]);
  full = false;
  await expectGot(slow, [7, 8]);
});

it('waits while the stream is appended again', async () => {
  const { got } = await live();
  emptied = true;
  stream = [];
  wake('1-3');
  await settle();
  wake('7>8'); // ready again; the feed still reads, so Redis has the word
  stream = [entry(7), entry(8)];
  emptied = false;
  await expectGot(got, [7, 8]);
});

it('sends away who follows for long enough, a part at a call, to come back at different times', () => {
  const all = feeds();
  for (let i = 0; i < 400; i += 1) follow(all, 7);
  const opened = performance.now() + 1;
  expect(all.sendAway(0)).toBe(0);
  expect(all.sendAway(opened)).toBe(80);
  expect(away).toHaveLength(80);
  expect(new Set(away).size).toBeGreaterThan(70);
  expect(Math.min(...away)).toBeGreaterThanOrEqual(250);
});
