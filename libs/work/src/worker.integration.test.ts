import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import type { Database } from '@signalbox/postgres/database';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { sleep, waitFor } from '@signalbox/testkit/wait';
import { expect, test } from 'vitest';
import { first, holder, ownTestQueue, row, schema, terms } from '../test/test-queue.ts';
import { finish, keptLog, ownWorkers, readableMetrics, untilAborted } from '../test/test-worker.ts';
import type { Lease, Worker, WorkItem } from './worker.ts';

const own = ownTestQueue();
const start = ownWorkers();
const allDone = (count: number, timeoutMs = 30_000) =>
  waitFor(own.states, (found) => found.done === count, { timeoutMs, label: `${count} done` });

test('two owners race over 2000 items of 60 sessions: order kept, never two of a lane at once', async () => {
  const inLane = new Map<string, number>();
  const order = new Map<string, number[]>();
  const clashes: string[] = [];
  const perOwner = [0, 0];
  const run = (place: number, database: Database) => async (item: WorkItem, lease: Lease, worker: Worker) => {
    const busy = (inLane.get(item.key) ?? 0) + 1;
    inLane.set(item.key, busy);
    if (busy > 1) clashes.push(item.key);
    const { n } = item.payload as { n: number };
    order.set(item.key, [...(order.get(item.key) ?? []), n]);
    perOwner[place] = (perOwner[place] ?? 0) + 1;
    await sleep(Math.random() * 3);
    inLane.set(item.key, busy - 1);
    await finish(database, item, lease, worker);
  };
  const [one, two] = [own.open(), own.open()];
  const workers = [start(one, run(0, one)), start(two, run(1, two))];
  for (let batch = 0; batch < 40; batch += 1) {
    const rows = Array.from({ length: 50 }, (_, index) => {
      const n = batch * 50 + index;
      return row(`s${n % 60}`, 'acme', { payload: { n } });
    });
    // Intakes of both replicas, in turn.
    const worker = workers[batch % 2];
    const database = batch % 2 === 0 ? one : two;
    await database.transaction(async (tx) => worker?.enqueue(tx, rows));
  }
  await allDone(2000);
  expect(clashes).toEqual([]);
  expect(Math.min(...perOwner)).toBeGreaterThan(100);
  expect(order.size).toBe(60);
  for (const numbers of order.values()) expect(numbers).toEqual([...numbers].sort((a, b) => a - b));
  const [tries] = await own.owner.query<{ most: number }>(`SELECT max(attempt) AS most FROM ${schema}.items`);
  expect(tries?.most).toBe(1);
});

test('an enqueue starts its item right after the commit, not before', async () => {
  const started: string[] = [];
  const worker = start(
    own.database,
    async (item, lease, self) => {
      started.push(item.id);
      await finish(own.database, item, lease, self);
    },
    // A claim under way is promised 64 slots; the intake finds some all the same.
    { maxActive: 100 },
  );
  const work = row('s1');
  await own.database.transaction(async (tx) => {
    expect(await worker.enqueue(tx, [work])).toEqual([work.id]);
    await sleep(50);
    expect(started).toEqual([]);
  });
  expect(started).toEqual([work.id]);
  await allDone(1);
});

test('a stalled owner loses its lane: its signal aborts, the other one runs attempt 2, its write is refused', async () => {
  await using proxy = await startFaultProxy({ url: own.owner.url });
  const behind = own.open(proxy.url);
  const attempts: string[] = [];
  let stalledLease: { item: WorkItem; lease: Lease } | undefined;
  start(
    behind,
    async (item, lease) => {
      attempts.push(`stalled ${item.attempt}`);
      stalledLease = { item, lease };
      await untilAborted(lease);
    },
    { leaseMs: 1200 },
  );
  await own.queue.enqueue(own.database, [row('s1')]);
  await waitFor(
    () => stalledLease,
    (found) => found !== undefined,
  );
  proxy.blackhole();
  const blackAt = performance.now();
  const other = start(
    own.database,
    async (item, lease, worker) => {
      attempts.push(`other ${item.attempt}`);
      await finish(own.database, item, lease, worker);
    },
    { leaseMs: 1200 },
  );
  const held = await waitFor(
    () => stalledLease?.lease.holds(),
    (holds) => holds === false,
  );
  expect(held).toBe(false);
  // The holder stops before anybody can have taken the lane.
  expect(performance.now() - blackAt).toBeLessThan(1300);
  expect(attempts).toEqual(['stalled 1']);
  expect(stalledLease?.lease.signal.reason).toMatchObject({ code: 'LEASE_LOST' });
  await allDone(1);
  expect(attempts).toEqual(['stalled 1', 'other 2']);
  if (stalledLease !== undefined) {
    const { item, lease } = stalledLease;
    await expect(other.queue.hold(own.database, item, lease)).rejects.toMatchObject({ code: 'LEASE_LOST' });
  }
  await proxy.heal();
});

test('connections cut for a while: nobody takes anybody’s items, every run goes on', async () => {
  await using proxy = await startFaultProxy({ url: own.owner.url });
  const runs: string[] = [];
  let open = true;
  const run = (database: Database) => async (item: WorkItem, lease: Lease, worker: Worker) => {
    runs.push(item.id);
    await waitFor(
      () => open,
      (still) => !still,
      { timeoutMs: 20_000 },
    );
    lease.signal.throwIfAborted();
    await finish(database, item, lease, worker);
  };
  const [one, two] = [own.open(proxy.url), own.open(proxy.url)];
  start(one, run(one), { maxActive: 5 });
  start(two, run(two), { maxActive: 5 });
  await own.queue.enqueue(
    own.database,
    Array.from({ length: 10 }, (_, n) => row(`s${n}`)),
  );
  await waitFor(
    () => runs.length,
    (count) => count === 10,
  );
  for (let outage = 0; outage < 3; outage += 1) {
    await proxy.refuse();
    await sleep(700);
    await proxy.heal();
    await sleep(500);
  }
  open = false;
  await allDone(10);
  expect(runs).toHaveLength(10);
});

test('an expired lease of another is taken only after one lease time of being connected', async () => {
  await own.queue.enqueue(own.database, [row('s1')]);
  await own.queue.claim({ owner: newId(), leaseMs: 1, formats: [1] }, 1, false, '');
  const startedAt = performance.now();
  start(own.database, (item, lease, worker) => finish(own.database, item, lease, worker), { leaseMs: 1500 });
  await allDone(1);
  expect(performance.now() - startedAt).toBeGreaterThan(1500);
});

test('a claim whose answer was lost is let go and run, as the attempt it was', async () => {
  const owner = newId();
  await own.queue.enqueue(own.database, [row('s1')]);
  const attempts: number[] = [];
  await own.queue.claim({ owner, leaseMs: 60_000, formats: [1] }, 1, false, '');
  start(
    own.database,
    async (item, lease, worker) => {
      attempts.push(item.attempt);
      await finish(own.database, item, lease, worker);
    },
    { owner },
  );
  await allDone(1, 5000);
  expect(attempts).toEqual([1]);
});

test('a run that ends without an outcome is run again as a new attempt', async () => {
  await own.queue.enqueue(own.database, [row('s1')]);
  const attempts: number[] = [];
  start(own.database, async (item, lease, worker) => {
    attempts.push(item.attempt);
    if (item.attempt === 1) throw fault('LEASE_LOST', 'as if');
    await finish(own.database, item, lease, worker);
  });
  await allDone(1);
  expect(attempts).toEqual([1, 2]);
});

test('failures are retried with their count, then fail visibly: on the row, in the log, in the metrics', async () => {
  const work = [row('retried'), row('never'), row('told')];
  await own.queue.enqueue(own.database, work);
  const seen: string[] = [];
  const { log, lines, count } = keptLog();
  const { metrics, metricsText } = readableMetrics();
  const run = async (item: WorkItem) => {
    seen.push(`${item.key} ${item.attempt}`);
    throw item.key === 'never' ? fault('VALIDATION_ERROR', 'no') : new Error('a passing one');
  };
  const retry = { baseDelayMs: 5, maxRetries: 2 };
  const worker = start(own.database, run, { retry, log, metrics });
  await waitFor(own.states, (found) => found.failed === 3);
  for (const key of ['retried', 'told']) {
    expect(seen.filter((each) => each.startsWith(key))).toEqual([`${key} 1`, `${key} 2`, `${key} 3`]);
  }
  expect(seen.filter((each) => each.startsWith('never'))).toEqual(['never 1']);
  const errors = await Promise.all(work.map(({ id }) => own.item(id)));
  expect(errors.map(({ last_error }) => last_error)).toEqual([
    'INTERNAL_ERROR: an internal error occurred',
    'VALIDATION_ERROR: no',
    'INTERNAL_ERROR: an internal error occurred',
  ]);
  expect([count('work.retried'), count('work.failed')]).toEqual([4, 3]);
  const failed = lines.find(({ event, key }) => event === 'work.failed' && key === 'never');
  expect(failed).toMatchObject({ tenantId: 'acme', itemId: work[1]?.id, attempt: 1 });
  const page = await metricsText();
  expect(page).toContain('work_retries_total{queue="test",code="INTERNAL_ERROR",service="test"} 4');
  expect(page).toContain('work_failed_total{queue="test",code="VALIDATION_ERROR",service="test"} 1');
  expect(page).toContain('work_failed_total{queue="test",code="INTERNAL_ERROR",service="test"} 2');
  expect(worker.detail()).toMatchObject({ status: 'ok', failed_total: 3, busy: 0 });
});

test('the gauges leave out what runs, is parked, stands behind that, or was cancelled', async () => {
  const owner = newId();
  const parked = row('parked');
  const { claims } = await own.queue.enqueueAndClaim(own.database, [parked], 1, terms(owner));
  await own.queue.park(own.database, first(claims).item, holder(owner, first(claims)), 1);
  const cancelled = row('cancelled');
  await own.queue.enqueue(own.database, [row('parked'), cancelled]);
  await own.queue.cancel(own.database, { tenant: 'acme', key: 'cancelled', cancel: {} });
  expect(await own.claim(owner)).toEqual([]);
  await own.queue.enqueueAndClaim(own.database, [row('runs')], 1, terms(owner));
  await own.queue.enqueue(own.database, [row('waits'), row('waits'), row('waits', 'globex')]);
  await own.owner.query(
    `UPDATE ${schema}.lanes SET ready_at = ready_at - interval '20 s' WHERE tenant = 'globex'`,
  );

  const { metrics, metricsText } = readableMetrics();
  start(own.database, async () => undefined, { maxActive: 0, metrics });
  const page = await waitFor(metricsText, (text) => text.includes('work_waiting{'));
  expect(page).toContain('work_waiting{queue="test",service="test"} 3');
  const [, oldest] = /^work_oldest_seconds\{queue="test",service="test"\} ([\d.]+)$/m.exec(page) ?? [];
  expect(Number(oldest)).toBeGreaterThan(20);
  expect(Number(oldest)).toBeLessThan(30);
  expect(page).toContain('work_stuck_runs{queue="test",service="test"} 0');
});

test('what gives an item up says so itself, once its tries are spent', async () => {
  await own.queue.enqueue(own.database, [row('never')]);
  const gaveUp: unknown[] = [];
  start(own.database, () => Promise.reject(fault('VALIDATION_ERROR', 'no')), {
    giveUp: async (item, lease, error) => {
      gaveUp.push(error);
      await own.queue.finish(own.database, item, lease, 'failed', 'told');
    },
  });
  await waitFor(own.states, (found) => found.failed === 1);
  expect(gaveUp).toMatchObject([{ code: 'VALIDATION_ERROR' }]);
});

test('stop waits for runs, then hands the rest over to a process that takes them at once', async () => {
  await own.queue.enqueue(own.database, [row('quick'), row('slow')]);
  const attempts: string[] = [];
  const first = start(own.database, async (item, lease, worker) => {
    attempts.push(`${item.key} ${item.attempt}`);
    if (item.key === 'slow') await untilAborted(lease);
    await sleep(100);
    await finish(own.database, item, lease, worker);
  });
  await waitFor(
    () => attempts.length,
    (count) => count === 2,
  );
  await first.stop(AbortSignal.timeout(400));
  expect(await own.states()).toEqual({ done: 1, ready: 1 });
  start(own.database, async (item, lease, worker) => {
    attempts.push(`${item.key} ${item.attempt}`);
    await finish(own.database, item, lease, worker);
  });
  await allDone(2);
  expect(attempts.slice(2)).toEqual(['slow 2']);
});

test('results of parked items continue them right after the commit', async () => {
  const seen: string[] = [];
  const worker = start(own.database, async (item, lease, self) => {
    seen.push(`run ${item.attempt}`);
    if (seen.length === 1) await self.queue.park(own.database, item, lease, 2);
    else await finish(own.database, item, lease, self);
  });
  const work = row('s1');
  await own.database.transaction((tx) => worker.enqueue(tx, [work]));
  await waitFor(own.states, (found) => found.parked === 1);
  const result = { tenant: work.tenant, key: work.key, id: work.id };
  const first = await own.database.transaction((tx) => worker.resume(tx, [result]));
  expect(first).toEqual([{ id: work.id, pending: 1 }]);
  await own.database.transaction((tx) => worker.resume(tx, [result]));
  expect(seen).toHaveLength(2);
  await allDone(1);
  expect(seen).toEqual(['run 1', 'run 1']);
});
