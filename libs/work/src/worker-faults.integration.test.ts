import { newId } from '@signalbox/contracts/ids';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { sleep, waitFor } from '@signalbox/testkit/wait';
import { expect, test } from 'vitest';
import { ownTestQueue, row, schema, terms } from '../test/test-queue.ts';
import { finish, keptLog, ownWorkers, untilAborted } from '../test/test-worker.ts';
import type { Lease, Worker, WorkItem } from './worker.ts';

const own = ownTestQueue();
const start = ownWorkers();
/** A claim under way is promised 64 slots: an intake meanwhile finds some all the same. */
const moreThanAClaim = 100;
const allDone = (count: number) =>
  waitFor(own.states, (found) => found.done === count, { timeoutMs: 20_000, label: `${count} done` });

test('the answer to the commit of an intake is lost: its item runs once, and the repeated message is one', async () => {
  await using proxy = await startFaultProxy({ url: own.owner.url });
  const behind = own.open(proxy.url);
  const runs: number[] = [];
  const worker = start(
    own.database,
    async (item, lease, self) => {
      runs.push(item.attempt);
      await finish(own.database, item, lease, self);
    },
    { maxActive: moreThanAClaim },
  );
  const work = row('s1');
  const intake = (database: typeof behind, beforeCommit: () => void) =>
    database.transaction(async (tx) => {
      const ids = await worker.enqueue(tx, [work]);
      beforeCommit();
      return ids;
    });
  const lost = intake(behind, () => proxy.blackhole('to-client'));
  lost.catch(() => undefined);
  // Committed at the server: the item is this worker's, and this worker does not know it.
  await waitFor(
    () => own.item(work.id),
    ({ state }) => state === 'running',
  );
  expect(runs).toEqual([]);
  proxy.cut();
  await proxy.heal();
  await expect(lost).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE', details: { outcome: 'unknown' } });
  expect(await intake(behind, () => undefined)).toEqual([]);
  await allDone(1);
  expect(runs).toEqual([1]);
  expect(await own.item(work.id)).toMatchObject({ attempt: 1, lost: 0 });
});

test('the database is away for longer than a lease: nobody runs beside anybody, and all is done after', async () => {
  await using proxy = await startFaultProxy({ url: own.owner.url });
  const holders = new Map<string, { owner: string; lease: Lease }[]>();
  const clashes: string[] = [];
  let open = true;
  const run = (name: string) => async (item: WorkItem, lease: Lease, worker: Worker) => {
    const before = holders.get(item.key) ?? [];
    if (before.some((each) => each.lease.holds())) clashes.push(`${item.key} by ${name}`);
    holders.set(item.key, [...before, { owner: name, lease }]);
    await Promise.race([
      untilAborted(lease),
      waitFor(
        () => open,
        (still) => !still,
        { timeoutMs: 30_000 },
      ),
    ]);
    await finish(own.database, item, lease, worker);
  };
  const options = { maxActive: 6, leaseMs: 1200, heartbeatMs: 150 };
  const workers = ['a', 'b'].map((name) => start(own.open(proxy.url), run(name), options));
  await own.queue.enqueue(
    own.database,
    Array.from({ length: 8 }, (_, n) => row(`s${n}`)),
  );
  await waitFor(
    () => workers.map((worker) => worker.active()),
    ([a = 0, b = 0]) => a + b === 8,
  );
  const fences = () =>
    own.owner.query<{ key: string; fence: string; owner: string }>(
      `SELECT key, fence, owner FROM ${schema}.lanes ORDER BY key`,
    );
  const before = await fences();
  await proxy.refuse();
  await waitFor(
    () => [...holders.values()].flat().filter(({ lease }) => lease.signal.aborted).length,
    (count) => count === 8,
  );
  await sleep(1200); // all leases have run out in the database too
  expect(await fences()).toEqual(before);
  await proxy.heal();
  await waitFor(
    () => [...holders.values()].map((each) => each.length),
    (runs) => runs.every((count) => count >= 2),
    { timeoutMs: 20_000 },
  );
  open = false;
  await allDone(8);
  expect(clashes).toEqual([]);
  // Each once before and once after: the owners let go of what they had; nobody took it from them.
  expect([...holders.values()].map((runs) => runs.length)).toEqual(Array(8).fill(2));
});

test('a run that stores no outcome is run again a few times, then fails, and says so', async () => {
  const work = row('s1');
  await own.queue.enqueue(own.database, [work]);
  const attempts: number[] = [];
  const { log, count } = keptLog();
  start(own.database, async (item) => void attempts.push(item.attempt), { maxLost: 3, log });
  await waitFor(own.states, (found) => found.failed === 1);
  expect(attempts).toEqual([1, 2, 3]);
  expect(await own.item(work.id)).toMatchObject({
    lost: 3,
    last_error: 'RETRY_BUDGET_SPENT: 3 tries left no outcome',
  });
  expect([count('work.no_outcome'), count('work.failed')]).toEqual([3, 1]);
});

test('what cannot be given up either ends as failed all the same', async () => {
  const work = row('s1');
  await own.queue.enqueue(own.database, [work]);
  let told = 0;
  const giveUp = async () => {
    told += 1;
    throw new Error('a defect');
  };
  start(own.database, async () => undefined, { maxLost: 1, giveUp });
  await waitFor(own.states, (found) => found.failed === 1);
  expect(told).toBe(1);
  expect(await own.item(work.id)).toMatchObject({ lost: 2, attempt: 3 });
});

test('work that takes its process down is not started for ever', async () => {
  const work = row('s1');
  await own.queue.enqueue(own.database, [work]);
  for (let crash = 0; crash < 2; crash += 1) {
    await own.queue.claim(terms(newId(), 1), 1, crash > 0, '');
    await own.leaseOver();
  }
  const started: number[] = [];
  start(own.database, async (item) => void started.push(item.attempt), { maxLost: 2, leaseMs: 1200 });
  await waitFor(own.states, (found) => found.failed === 1);
  expect(started).toEqual([]);
  expect((await own.item(work.id)).last_error).toContain('RETRY_BUDGET_SPENT');
});

test('a run that ignores its signal loses its lane to the next try, can write nothing more, and keeps its slot', async () => {
  const work = row('s1');
  const { log, count } = keptLog();
  const held: { item: WorkItem; lease: Lease }[] = [];
  const release = Promise.withResolvers<void>();
  const worker = start(
    own.database,
    async (item, lease) => {
      held.push({ item, lease });
      await release.promise;
      await own.queue.finish(own.database, item, lease, 'done');
    },
    { maxActive: 2, ignoreMs: 300, log },
  );
  await own.database.transaction((tx) => worker.enqueue(tx, [work]));
  await waitFor(
    () => held.length,
    (count) => count === 1,
  );
  const request = { tenant: work.tenant, key: work.key, cancel: {} };
  await own.database.transaction((tx) => worker.cancel(tx, request));
  await waitFor(own.states, (found) => found.cancelled === 1);
  expect(held[0]?.lease.holds()).toBe(false);
  expect(await own.item(work.id)).toMatchObject({ attempt: 2, lost: 1 });
  expect(count('work.run_ignores_signal')).toBe(1);
  expect(worker.detail()).toMatchObject({ status: 'ok', busy: 0, stuck: 1 });

  // A second one: no slot is left, and the worker says that it is down.
  const more = row('s2');
  await own.database.transaction((tx) => worker.enqueue(tx, [more]));
  await waitFor(
    () => held.length,
    (count) => count === 2,
  );
  await own.database.transaction((tx) => worker.cancel(tx, { ...request, key: 's2' }));
  await waitFor(
    () => worker.detail(),
    ({ stuck, status }) => stuck === 2 && status === 'down',
  );
  await waitFor(
    () => own.item(more.id),
    ({ state, lost }) => state === 'ready' && lost === 1,
  );
  release.resolve();
  await waitFor(
    () => worker.detail(),
    ({ stuck, status }) => stuck === 0 && status === 'ok',
  );
  expect(count('work.stuck_run_ended')).toBe(2);
  await waitFor(own.states, (found) => found.cancelled === 2);
});

test('a run that never returns after its outcome holds up the next of its lane for a while only', async () => {
  const { log, count } = keptLog();
  const leases: Lease[] = [];
  const release = Promise.withResolvers<void>();
  const worker = start(
    own.database,
    async (item, lease, self) => {
      leases.push(lease);
      await finish(own.database, item, lease, self);
      if (leases.length === 1) await release.promise;
    },
    { ignoreMs: 300, log },
  );
  await own.database.transaction((tx) => worker.enqueue(tx, [row('s1'), row('s1')]));
  await allDone(2);
  expect(leases.map((lease) => lease.holds())).toEqual([false, true]);
  expect(count('work.run_ignores_signal')).toBe(1);
  release.resolve();
});
