import { fault } from '@signalbox/faults/fault';
import type { Database } from '@signalbox/postgres/database';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { untilAborted, workerOptions } from '../test/test-worker.ts';
import type { Claim, HeldLane, WorkQueue } from './queue.ts';
import { type Lease, startWorker, type WorkItem } from './worker.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const away = () => Promise.reject(new Error('no database in this test'));
const noDatabase: Database = {
  query: away,
  urgent: { query: away },
  transaction: away,
  listen: () => undefined,
  probe: () => away,
  close: async () => undefined,
};

/** The queue as the worker sees it, over nothing: one item to claim, and a note of what was asked. */
function queueOf(item: WorkItem) {
  const asked: string[] = [];
  let lane: HeldLane | undefined;
  let waiting = true;
  const note = async <T>(what: string, answer: T): Promise<T> => {
    asked.push(what);
    return answer;
  };
  const free = (what: string) => {
    lane = undefined;
    return note(what, undefined);
  };
  const queue: WorkQueue = {
    enqueue: () => note('enqueue', []),
    enqueueAndClaim: () => note('enqueue', { ids: [], claims: [] }),
    resumeAndClaim: () => note('resume', { resumed: [], claims: [] }),
    cancel: () => note('cancel', []),
    lock: () => note('lock', undefined),
    claim: () => {
      const claims: Claim[] = waiting ? [{ item, fence: 7 }] : [];
      if (waiting) lane = { tenant: item.tenant, key: item.key, fence: 7, renewed: true };
      waiting = false;
      return note('claim', claims);
    },
    hold: () => note('hold', undefined),
    finish: (_tx, _item, _holder, state) => free(state).then(() => false),
    park: () => free('park'),
    retry: () => free('retry'),
    handOver: () => free('hand over'),
    requeue: () => note('requeue', false),
    letGo: (_lane, _owner, started) => free(started ? 'let go, started' : 'let go').then(() => true),
    heartbeat: () => note('heartbeat', lane === undefined ? [] : [lane]),
    sweep: () => note('sweep', 0),
    load: () => note('load', []),
    prune: () => note('prune', 0),
  };
  return { queue, asked };
}

const item: WorkItem = {
  tenant: 'acme',
  key: 's1',
  id: '01900000-0000-7000-8000-000000000001',
  format: 1,
  payload: {},
  attempt: 1,
  retries: 0,
  enqueuedAt: new Date(0),
  traceparent: undefined,
};

/** Two minutes of a worker's life, in the time of a test. */
async function worked(run: (lease: Lease) => Promise<void>, ms = 120_000) {
  const { queue, asked } = queueOf({ ...item, enqueuedAt: new Date() });
  const worker = startWorker({ ...workerOptions(noDatabase), run: (_, lease) => run(lease) }, queue);
  await vi.advanceTimersByTimeAsync(ms);
  return { worker, asked };
}

test('a stop ends every loop and leaves no timer: what runs is aborted when its time is over, and handed over', async () => {
  const leases: Lease[] = [];
  const { worker, asked } = await worked((lease) => {
    leases.push(lease);
    return untilAborted(lease);
  });
  for (const loop of ['claim', 'heartbeat', 'load', 'sweep']) {
    expect(asked.filter((each) => each === loop).length, loop).toBeGreaterThan(1);
  }
  // It ran for 40 leases: the heartbeats kept it.
  expect(leases.map((lease) => lease.holds())).toEqual([true]);

  const drained = new AbortController();
  const stopped = worker.stop(drained.signal);
  await vi.advanceTimersByTimeAsync(5000);
  expect(leases[0]?.signal.aborted).toBe(false);
  expect(asked.lastIndexOf('heartbeat')).toBeGreaterThan(asked.lastIndexOf('claim'));
  drained.abort();
  await stopped;
  expect(leases[0]?.signal.reason).toMatchObject({ code: 'DRAINING' });
  expect(asked).toContain('hand over');

  expect(vi.getTimerCount()).toBe(0);
  const before = asked.length;
  await vi.advanceTimersByTimeAsync(120_000);
  expect(asked).toHaveLength(before);
});

test('what a claim brings that was under way at the stop is let go as no attempt, and not left to its lease', async () => {
  const { queue, asked } = queueOf(item);
  const answer = Promise.withResolvers<void>();
  const slow: WorkQueue = { ...queue, claim: (...terms) => answer.promise.then(() => queue.claim(...terms)) };
  const runs: string[] = [];
  const run = async ({ id }: WorkItem) => void runs.push(id);
  const worker = startWorker({ ...workerOptions(noDatabase), run }, slow);
  await vi.advanceTimersByTimeAsync(10);
  const stopped = worker.stop(AbortSignal.abort());
  answer.resolve();
  await stopped;
  expect(asked.filter((each) => each === 'claim' || /let go|hand/.test(each))).toEqual(['claim', 'let go']);
  expect(runs).toEqual([]);
});

test('a run that ignores the stop does not hold it up for longer than its grace', async () => {
  const { worker } = await worked(() => new Promise(() => undefined));
  const startedAt = performance.now();
  const stopped = worker.stop(AbortSignal.abort(), 700);
  await vi.advanceTimersByTimeAsync(700);
  await stopped;
  expect(performance.now() - startedAt).toBe(700);
  expect(vi.getTimerCount()).toBe(0);
});

test('a stop while an item waits for its retry, or the database is away, leaves no timer either', async () => {
  const { worker, asked } = await worked(
    () => Promise.reject(fault('MODEL_RATE_LIMITED', 'slow down', { retryAfterMs: 20_000 })),
    10_000,
  );
  expect(asked).toContain('retry');
  await worker.stop(AbortSignal.abort());
  expect(vi.getTimerCount()).toBe(0);

  const { queue } = queueOf(item);
  const cut: WorkQueue = { ...queue, claim: away, heartbeat: away, load: away };
  const without = startWorker({ ...workerOptions(noDatabase), run: async () => undefined }, cut);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(without.detail().status).toBe('down');
  await without.stop(new AbortController().signal);
  expect(vi.getTimerCount()).toBe(0);
});
