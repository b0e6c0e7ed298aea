import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { sleep, waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, startHarness } from '../test/jobs-harness.ts';

let harness: Harness;

beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness?.close());

const done = (jobId: string) =>
  waitFor(
    () => harness.stored(jobId),
    (job) => job?.status === 'done' || job?.status === 'failed',
    { timeoutMs: 90_000, label: `end of ${jobId}` },
  );

async function onceOnly(jobId: string, rows: readonly object[]): Promise<void> {
  expect(harness.exported(jobId)).toEqual({
    names: [`${jobId}.ndjson`],
    lines: [...rows, { end: true, count: rows.length }],
  });
  expect(await harness.told(jobId)).toHaveLength(1);
}

test.each(['refuse', 'blackhole'] as const)(
  'a database that is away (%s) for longer than a lease ends no process; each job has its one end',
  async (outage) => {
    await using proxy = await startFaultProxy({ url: harness.database.url });
    await using service = await harness.start({
      DATABASE_URL: proxy.url,
      JOB_WORKER_LEASE_MS: '3000',
      JOB_ASK_TIMEOUT_MS: '60000',
      MEMORY_COMPACTION_ENABLED: 'true',
    });
    const { sessionId, rows } = harness.session(5);
    const answer = harness.holdPages((asked) => asked.sessionId === sessionId);
    const jobId = await harness.request('export_session', { session_id: sessionId });
    await answer.asked;
    await proxy[outage]();
    await service.log('jobs.lease_lost');
    await sleep(4_000); // past the lease by another one: somebody else would run the job by now
    await proxy.heal();
    answer();
    expect((await done(jobId))?.status).toBe('done');
    await onceOnly(jobId, rows);
    let pieces = 0;
    harness.upkeep.set('memory-replicator.memory_compaction', async () => {
      pieces += 1;
      return { done: 1, more: false };
    });
    const at = await harness.tick('memory-replicator.memory_compaction');
    await harness.run('memory-replicator.memory_compaction', 'done', at, 60_000);
    expect(pieces).toBe(1);
    expect(service.exit()).toBeUndefined();
    expect((await service.stop()).code).toBe(0);
  },
);

test('a broker that is away is no failure of an export', async () => {
  await using proxy = await startFaultProxy({ url: `tcp://${testInfra().kafka}`, kafka: true });
  await using service = await harness.start({
    KAFKA_BOOTSTRAP_SERVERS: proxy.address,
    JOB_ASK_TIMEOUT_MS: '2000',
    JOB_MAX_FAILURES: '2', // the answer that was on its way is one: nobody can tell it from a silent owner
  });
  const { sessionId, rows } = harness.session(5);
  let pages = 0;
  harness.gateway.beforePage = async (asked) => {
    if (asked.sessionId === sessionId && ++pages === 2) await proxy.refuse();
  };
  const jobId = await harness.request('export_session', { session_id: sessionId });
  const retries = () =>
    service.logs.filter(({ event, outcome }) => event === 'job.finished' && outcome === 'retried');
  await waitFor(retries, (found) => found.length >= 2, { timeoutMs: 60_000 });
  await proxy.heal();
  expect((await done(jobId))?.status).toBe('done');
  await onceOnly(jobId, rows);
  expect(service.exit()).toBeUndefined();
});
