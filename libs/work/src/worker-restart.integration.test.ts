import { sleep, waitFor } from '@signalbox/testkit/wait';
import { expect, test } from 'vitest';
import { ownTestQueue, row } from '../test/test-queue.ts';
import { finish, ownWorkers } from '../test/test-worker.ts';
import type { Worker } from './worker.ts';

const own = ownTestQueue();
const start = ownWorkers();
const allDone = (count: number) =>
  waitFor(own.states, (found) => found.done === count, { timeoutMs: 30_000, label: `${count} done` });

test('a stop while an intake claims: what never started is no attempt', async () => {
  const runs: string[] = [];
  const startNamed = (name: string) =>
    start(own.database, async (item, lease, worker) => {
      runs.push(`${name} ${item.attempt}`);
      await finish(own.database, item, lease, worker);
    });
  const first = startNamed('first');
  await waitFor(
    () => first.detail().status,
    (status) => status === 'ok',
  );
  const work = row('s1');
  let stopped: Promise<void> = Promise.resolve();
  await own.database.transaction(async (tx) => {
    await first.enqueue(tx, [work]);
    stopped = first.stop(AbortSignal.timeout(2000));
  });
  await stopped;
  // The stop waited for it: nothing is left to the end of a lease. (Not claimed at all while the first poll has the slots.)
  expect(await own.item(work.id)).toMatchObject({ state: 'ready', interrupted: false, lost: 0 });
  startNamed('second');
  await allDone(1);
  expect(runs).toEqual(['second 1']);
});

test('a stop while an item waits for the run before it in its lane: it is no attempt either', async () => {
  const runs: string[] = [];
  const returns = Promise.withResolvers<void>();
  const first = start(own.database, async (item, lease, worker) => {
    runs.push(`first ${item.attempt}`);
    await finish(own.database, item, lease, worker);
    await returns.promise; // its outcome is stored, its last records are on their way
  });
  const [one, two] = [row('s1'), row('s1')];
  await own.database.transaction((tx) => first.enqueue(tx, [one, two]));
  await waitFor(
    () => own.item(two.id),
    ({ state }) => state === 'running',
  );
  const stopped = first.stop(AbortSignal.abort());
  await waitFor(
    () => own.item(two.id),
    ({ state, attempt, interrupted }) => state === 'ready' && attempt === 1 && interrupted === false,
  );
  returns.resolve();
  await stopped;
  start(own.database, async (item, lease, worker) => {
    runs.push(`second ${item.attempt}`);
    await finish(own.database, item, lease, worker);
  });
  await allDone(2);
  expect(runs).toEqual(['first 1', 'second 1']);
});

test('processes that come and go under load run each item once, as its first attempt', async () => {
  const total = 600;
  const attempts: number[] = [];
  const startOne = () =>
    start(own.database, async (item, lease, worker) => {
      attempts.push(item.attempt);
      await sleep(5);
      await finish(own.database, item, lease, worker);
    });
  let workers: Worker[] = [startOne(), startOne()];
  let restarts = 0;
  let entered = 0;
  const restart = async () => {
    while (entered < total) {
      const [oldest, ...rest] = workers;
      workers = [...rest, startOne()];
      await oldest?.stop(AbortSignal.timeout(5000));
      restarts += 1;
    }
  };
  const intake = async () => {
    for (; entered < total; entered += 4) {
      // Any of them, also one that stops meanwhile.
      const worker = workers[entered % workers.length];
      const rows = Array.from({ length: 4 }, (_, n) => row(`s${(entered + n) % 60}`));
      await own.database.transaction((tx) => worker?.enqueue(tx, rows) ?? Promise.resolve([]));
    }
  };
  await Promise.all([restart(), intake()]);
  await allDone(total);
  expect(restarts).toBeGreaterThan(5);
  expect(attempts).toHaveLength(total);
  expect(attempts.filter((attempt) => attempt > 1)).toEqual([]);
}, 60_000);
