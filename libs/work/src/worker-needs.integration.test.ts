import { fault } from '@signalbox/faults/fault';
import { waitFor } from '@signalbox/testkit/wait';
import { expect, test } from 'vitest';
import { ownTestQueue, row } from '../test/test-queue.ts';
import { finish, keptLog, ownWorkers, untilAborted } from '../test/test-worker.ts';
import type { Lease, Need, Worker, WorkItem } from './worker.ts';

const own = ownTestQueue();
const start = ownWorkers();
const allDone = (count: number) =>
  waitFor(own.states, (found) => found.done === count, { timeoutMs: 30_000, label: `${count} done` });

/** What a process needs, and whether it has it. */
function ownNeed(handOver = true) {
  const probes: number[] = [];
  let lostAt: number | undefined;
  let answers = true;
  const need: Need = {
    name: 'broker',
    waitingMs: () => (lostAt === undefined ? 0 : performance.now() - lostAt),
    probe: () => {
      probes.push(performance.now());
      return answers ? Promise.resolve() : Promise.reject(fault('KAFKA_UNAVAILABLE', 'away'));
    },
    ...(handOver ? { handOverOn: 'KAFKA_UNAVAILABLE' } : {}),
  };
  return {
    need,
    probes,
    lose() {
      lostAt = performance.now();
      answers = false;
    },
    /** Runs are over, nobody sends any more; the probe still fails. */
    idle() {
      lostAt = undefined;
    },
    find() {
      lostAt = undefined;
      answers = true;
    },
  };
}

/** Ends at once where the need is met, and waits for it where it is not. */
const run =
  (name: string, has: () => boolean, runs: string[]) =>
  async (item: WorkItem, lease: Lease, worker: Worker) => {
    runs.push(`${name} ${item.attempt}`);
    if (!has()) await untilAborted(lease);
    await finish(own.database, item, lease, worker);
  };

const claimed =
  (database = own.database) =>
  (worker: Worker, key: string) => {
    const work = row(key);
    return database.transaction((tx) => worker.enqueue(tx, [work])).then(() => work);
  };

test('who has lost what runs need hands over what it holds, and claims nothing until it has it again', async () => {
  const runs: string[] = [];
  const { need, lose, idle, find, probes } = ownNeed();
  const { log, count, lines } = keptLog();
  let has = false;
  const cutOff = start(
    own.database,
    run('cut off', () => has, runs),
    { needs: need, log },
  );
  const works = await Promise.all(['s1', 's2', 's3'].map((key) => claimed()(cutOff, key)));
  await waitFor(
    () => runs.length,
    (n) => n === 3,
  );
  lose();
  const lostAt = performance.now();
  const other = start(
    own.database,
    run('other', () => true, runs),
    { maxActive: 100 },
  );
  await allDone(3);
  // 5 s, a look each 250 ms, a poll each 1.1 s.
  expect(performance.now() - lostAt).toBeLessThan(8_000);
  expect(runs.slice(3)).toEqual(Array(3).fill('other 2'));
  for (const { id } of works) expect(await own.item(id)).toMatchObject({ retries: 0, lost: 0 });
  expect([count('work.claims_paused'), count('work.handed_over'), count('work.retried')]).toEqual([1, 3, 0]);

  // Nothing is on its way any more, which says nothing of the broker: still nothing is claimed, by itself or in an intake.
  idle();
  await other.stop(AbortSignal.timeout(1000));
  const waiting = await claimed()(cutOff, 's4');
  await waitFor(
    () => probes.length,
    (n) => n >= 2,
  );
  expect(await own.item(waiting.id)).toMatchObject({ state: 'ready', attempt: 0 });
  has = true;
  find();
  await allDone(4);
  expect(runs.at(-1)).toBe('cut off 1');
  expect(lines.at(-1)?.event).toBe('work.claims_resumed');
}, 40_000);

test('a run that fails for want of it is handed over, not retried, and the process claims no more at first', async () => {
  const { need, find } = ownNeed();
  const runs: number[] = [];
  const { log, count } = keptLog();
  const worker = start(
    own.database,
    async (item, lease, self) => {
      runs.push(performance.now());
      if (runs.length < 3) throw fault('KAFKA_UNAVAILABLE', 'not acknowledged');
      await finish(own.database, item, lease, self);
    },
    { needs: need, log, retry: { maxRetries: 0 } },
  );
  find();
  const work = await claimed()(worker, 's1');
  await allDone(1);
  expect(await own.item(work.id)).toMatchObject({ attempt: 3, retries: 0, lost: 0 });
  expect([count('work.handed_over'), count('work.failed')]).toEqual([2, 0]);
  // Each time in vain makes the pause longer: what a model is paid for is not asked for in a circle.
  const [first = 0, second = 0, third = 0] = runs;
  expect(second - first).toBeGreaterThan(900);
  expect(third - second).toBeGreaterThan(1_900);
}, 40_000);

test('where runs can end without it they go on, and only claims wait', async () => {
  const { need, lose } = ownNeed(false);
  const runs: string[] = [];
  const release = Promise.withResolvers<void>();
  const worker = start(
    own.database,
    async (item, lease, self) => {
      runs.push(`${item.key} ${item.attempt}`);
      await Promise.race([release.promise, untilAborted(lease)]);
      await finish(own.database, item, lease, self);
    },
    { needs: need },
  );
  await claimed()(worker, 's1');
  await waitFor(
    () => runs.length,
    (n) => n === 1,
  );
  lose();
  const lostAt = performance.now();
  await waitFor(
    () => performance.now() - lostAt,
    (ms) => ms > 6_500,
  );
  await claimed()(worker, 's2');
  release.resolve();
  await waitFor(own.states, (found) => found.done === 1 && found.ready === 1);
  expect(runs).toEqual(['s1 1']);
}, 40_000);
