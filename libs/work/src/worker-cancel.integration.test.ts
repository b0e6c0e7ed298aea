import { sleep, waitFor } from '@signalbox/testkit/wait';
import { expect, test } from 'vitest';
import { ownTestQueue, row } from '../test/test-queue.ts';
import { finish, keptLog, ownWorkers, untilAborted } from '../test/test-worker.ts';
import type { CancelRequest, Lease, Worker, WorkItem, WorkRow } from './worker.ts';

const own = ownTestQueue();
const start = ownWorkers();
const asked = { by: 'u1' };

const request = ({ tenant, key, id }: WorkRow): CancelRequest => ({ tenant, key, ids: [id], cancel: asked });
/** As a service's own function does it. */
const cancelWithin = (worker: Worker, work: WorkRow) =>
  own.database.transaction((tx) =>
    worker.claimWithin(tx, async () => {
      const result = await worker.queue.cancel(tx, request(work));
      return { result, claims: [], more: false, cancelled: [{ ...work, cancel: asked }] };
    }),
  );
const cancelBy = (worker: Worker, work: WorkRow) =>
  own.database.transaction((tx) => worker.cancel(tx, request(work)));
const idle = async () => {
  throw new Error('this worker runs nothing');
};
const allCancelled = (count: number) => waitFor(own.states, (found) => found.cancelled === count);

test('a cancel of a run in another process reaches it with a heartbeat, in less than a second', async () => {
  const abortedAt = new Map<string, number>();
  const running = new Set<string>();
  // The holder's beat is the default of a service.
  start(
    own.open(),
    async (item, lease) => {
      running.add(item.id);
      await untilAborted(lease).finally(() => abortedAt.set(item.id, performance.now()));
    },
    { maxActive: 32, leaseMs: 10_000, heartbeatMs: 500 },
  );
  const work = Array.from({ length: 20 }, (_, n) => row(`s${n}`));
  await own.queue.enqueue(own.database, work);
  await waitFor(
    () => running.size,
    (size) => size === work.length,
  );
  const elsewhere = start(own.database, idle, { maxActive: 0 });
  const askedAt = new Map<string, number>();
  for (const each of work) {
    askedAt.set(each.id, performance.now());
    expect(await cancelBy(elsewhere, each)).toEqual([{ id: each.id, was: 'running' }]);
    await sleep(37); // at other points of the beat
  }
  await allCancelled(work.length);
  const tookMs = work.map(({ id }) => (abortedAt.get(id) ?? Number.NaN) - (askedAt.get(id) ?? 0));
  // Half a beat on average (240 ms), a whole one and a statement at most (490 ms).
  expect(Math.max(...tookMs)).toBeLessThan(1000);
});

test.each([
  ['by the worker', cancelBy],
  ['by a function of the service', cancelWithin],
])(
  'a cancel of a run in the same process ends it right after the commit, and what ends the item still holds: %s',
  async (_, cancelIt) => {
    const ended: unknown[] = [];
    const runs: WorkItem[] = [];
    const worker: Worker = start(
      own.database,
      async (item, lease) => {
        runs.push(item);
        await untilAborted(lease).catch(() => {
          throw new Error('the model call was aborted');
        });
      },
      {
        heartbeatMs: 700,
        cancelled: async (item, lease, cancel) => {
          ended.push({
            cancel,
            told: lease.cancelled(),
            holds: lease.holds(),
            aborted: lease.signal.aborted,
          });
          await worker.queue.finish(own.database, item, lease, 'cancelled');
        },
      },
    );
    const work = row('s1');
    await own.database.transaction((tx) => worker.enqueue(tx, [work]));
    await waitFor(
      () => runs.length,
      (count) => count === 1,
    );
    const startedAt = performance.now();
    await cancelIt(worker, work);
    await allCancelled(1);
    expect(performance.now() - startedAt).toBeLessThan(400);
    expect(ended).toEqual([{ cancel: asked, told: asked, holds: true, aborted: false }]);
    expect(await own.item(work.id)).toMatchObject({ state: 'cancelled', attempt: 1, last_error: null });
  },
);

test('an item that is enqueued and cancelled in one transaction is ended, whether it was claimed with it or waits', async () => {
  // A claim under way is promised 64 slots; the intake finds some all the same.
  const worker = start(own.database, (_, lease) => untilAborted(lease), { maxActive: 100 });
  const [one, two] = [row('s1'), row('s1')];
  const found = await own.database.transaction(async (tx) => {
    await worker.enqueue(tx, [one, two]);
    return [...(await worker.cancel(tx, request(one))), ...(await worker.cancel(tx, request(two)))];
  });
  expect(found.map(({ was }) => was)).toEqual(['running', 'waiting']);
  await allCancelled(2);
});

test('a cancel that is rolled back ends nothing', async () => {
  const runs: Lease[] = [];
  const worker = start(own.database, async (item, lease, self) => {
    runs.push(lease);
    await waitFor(
      () => open,
      (still) => !still,
    );
    await finish(own.database, item, lease, self);
  });
  let open = true;
  const work = row('s1');
  await own.database.transaction((tx) => worker.enqueue(tx, [work]));
  await waitFor(
    () => runs.length,
    (count) => count === 1,
  );
  const undone = own.database.transaction(async (tx) => {
    await worker.cancel(tx, request(work));
    throw new Error('undone');
  });
  await expect(undone).rejects.toThrow('undone');
  expect(runs.map(({ signal }) => signal.aborted)).toEqual([false]);
  open = false;
  await waitFor(own.states, (found) => found.done === 1);
});

test('a parked item is ended by whoever claims it, without being run again', async () => {
  const seen: string[] = [];
  const worker = start(
    own.database,
    async (item, lease, self) => {
      seen.push(`run ${item.attempt}`);
      await self.queue.park(own.database, item, lease, 1);
    },
    {
      cancelled: async (item, lease, cancel) => {
        seen.push(`ended ${item.attempt}`);
        expect(cancel).toEqual(item.cancel);
        await own.queue.finish(own.database, item, lease, 'cancelled');
      },
    },
  );
  const work = row('s1');
  await own.database.transaction((tx) => worker.enqueue(tx, [work]));
  await waitFor(own.states, (found) => found.parked === 1);
  expect(await cancelBy(worker, work)).toEqual([{ id: work.id, was: 'idle' }]);
  await allCancelled(1);
  const late = { tenant: work.tenant, key: work.key, id: work.id };
  expect(await own.database.transaction((tx) => worker.resume(tx, [late]))).toEqual([]);
  expect(seen).toEqual(['run 1', 'ended 1']);
});

test('a run that is cancelled while its process stops is ended, not handed over', async () => {
  const ended: string[] = [];
  const worker = start(own.database, (_, lease) => untilAborted(lease), {
    cancelled: async (item, lease) => {
      ended.push(item.id);
      await own.queue.finish(own.database, item, lease, 'cancelled');
    },
  });
  const work = row('s1');
  await own.database.transaction((tx) => worker.enqueue(tx, [work]));
  await waitFor(
    () => worker.active(),
    (active) => active === 1,
  );
  const draining = new AbortController();
  const stopped = worker.stop(draining.signal);
  await cancelBy(worker, work);
  draining.abort();
  await stopped;
  expect(await own.states()).toEqual({ cancelled: 1 });
  expect(ended).toEqual([work.id]);
});

test('an end that could not be stored is tried again, and the item fails when that never works', async () => {
  const work = row('s1');
  await own.queue.enqueue(own.database, [work]);
  const { log, count } = keptLog();
  let tries = 0;
  const worker = start(own.database, (_, lease) => untilAborted(lease), {
    maxLost: 2,
    log,
    cancelled: async () => {
      tries += 1;
      throw new Error('a defect');
    },
  });
  await waitFor(
    () => worker.active(),
    (active) => active === 1,
  );
  await cancelBy(worker, work);
  await waitFor(own.states, (found) => found.failed === 1);
  expect(tries).toBe(2);
  expect(count('work.outcome_not_stored')).toBe(2);
  expect((await own.item(work.id)).last_error).toBe('RETRY_BUDGET_SPENT: 2 tries left no outcome');
});
