import { newId } from '@signalbox/contracts/ids';
import { waitFor } from '@signalbox/testkit/wait';
import { expect, test } from 'vitest';
import { ownTestQueue, row, schema, terms } from '../test/test-queue.ts';
import { finish, ownWorkers } from '../test/test-worker.ts';
import { startWorkerProcess } from '../test/worker-process.ts';

const own = ownTestQueue();
const start = ownWorkers();

test('a process that stood still for two leases takes no expired lease before it has been connected for one again', async () => {
  const leaseMs = 2000;
  await using worker = await startWorkerProcess({ url: own.owner.url, schema, leaseMs });
  // Connected for long enough to take one now.
  await own.queue.enqueueAndClaim(own.database, [row('earlier')], 1, terms(newId(), 1));
  await waitFor(own.states, (found) => found.done === 1, { timeoutMs: 20_000 });

  worker.kill('SIGSTOP');
  const stoppedAt = performance.now();
  // A lane of another, whose lease runs out meanwhile: it may have stood still too, and renews it as soon as it wakes.
  const work = row('s1');
  await own.queue.enqueueAndClaim(own.database, [work], 1, terms(newId(), 100));
  await waitFor(
    () => performance.now() - stoppedAt,
    (ms) => ms > 2 * leaseMs,
  );
  worker.kill('SIGCONT');
  const wokenAt = performance.now();
  await waitFor(
    () => own.item(work.id),
    ({ attempt }) => attempt === 2,
    { timeoutMs: 20_000, label: 'the lane is taken over' },
  );
  expect(performance.now() - wokenAt).toBeGreaterThan(leaseMs);
}, 60_000);

test('one statement a beat renews all lanes of a process', async () => {
  const beats: number[] = [];
  const urgent: typeof own.database.urgent = {
    query: (statement, values) => {
      beats.push(performance.now());
      return own.database.urgent.query(statement, values);
    },
  };
  const release = Promise.withResolvers<void>();
  const worker = start(
    { ...own.database, urgent },
    async (item, lease, self) => {
      await release.promise;
      await finish(own.database, item, lease, self);
    },
    { maxActive: 64, heartbeatMs: 200 },
  );
  const rows = Array.from({ length: 50 }, (_, n) => row(`s${n}`));
  await own.queue.enqueue(own.database, rows);
  worker.wake();
  await waitFor(
    () => worker.active(),
    (active) => active === 50,
  );
  const untils = () =>
    own.owner.query<{ until: Date }>(`SELECT DISTINCT until FROM ${schema}.lanes WHERE owner IS NOT NULL`);
  const from = beats.length;
  const startedAt = performance.now();
  const before = (await untils()).map(({ until }) => until.getTime());
  await waitFor(
    () => beats.length,
    (count) => count >= from + 10,
  );
  // Ten statements in no less than nine times the pace, for fifty lanes.
  expect(performance.now() - startedAt).toBeGreaterThan(9 * 200 - 250);
  const after = (await untils()).map(({ until }) => until.getTime());
  expect(Math.min(...after)).toBeGreaterThan(Math.max(...before));
  release.resolve();
  await waitFor(own.states, (found) => found.done === 50);
});
