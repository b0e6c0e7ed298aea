import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, startHarness } from '../test/jobs-harness.ts';

let harness: Harness;

beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness?.close());

async function onceOnly(jobId: string, rows: readonly object[]): Promise<void> {
  expect(harness.exported(jobId)).toEqual({
    names: [`${jobId}.ndjson`],
    lines: [...rows, { end: true, count: rows.length }],
  });
  expect(await harness.told(jobId)).toHaveLength(1);
}

test('killed with its file written and its job open, an export has one file and one notification', async () => {
  await using dying = await harness.start({ FAIL_POINT: 'export.published' });
  const { sessionId, rows } = harness.session(7);
  const jobId = await harness.request('export_session', { session_id: sessionId });
  expect((await dying.exited).signal).toBe('SIGKILL');
  await using next = await harness.start();
  expect(await harness.ended(jobId)).toMatchObject({ status: 'done', attempts: 2 });
  await onceOnly(jobId, rows);
  await next.stop();
});

test.each(['export.page_written:2:SIGSTOP', 'export.published:1:SIGSTOP'])(
  'a replica that stood still at %s finds its job taken over, and leaves what is there alone',
  async (failPoint) => {
    await using still = await harness.start({ FAIL_POINT: failPoint });
    const { sessionId, rows } = harness.session(7);
    const jobId = await harness.request('export_session', { session_id: sessionId });
    await still.log('fail_point.reached');
    await using next = await harness.start({ JOB_ASK_TIMEOUT_MS: '10000' });
    expect(await harness.ended(jobId)).toMatchObject({ status: 'done', attempts: 2 });
    still.kill('SIGCONT');
    await still.log('job.finished', ({ task, outcome }) => task === 'export_session' && outcome === 'lost');
    await onceOnly(jobId, rows);
    expect((await harness.stored(jobId))?.attempts).toBe(2);
    await next.stop();
    // Back again, it runs jobs like any other.
    const other = harness.session(1);
    const later = await harness.request('export_session', { session_id: other.sessionId });
    await waitFor(
      () => harness.stored(later),
      (job) => job?.status === 'done',
      { timeoutMs: 30_000 },
    );
  },
);

test('upkeep that is killed half-way goes on behind its last piece', async () => {
  // The one schedule whose own tick does not come while this runs.
  const compaction = { MEMORY_COMPACTION_ENABLED: 'true' };
  const asked: unknown[] = [];
  const hold = Promise.withResolvers<void>();
  harness.upkeep.set('memory-replicator.memory_compaction', async ({ resume }) => {
    asked.push(resume?.at);
    const at = Number(resume?.at ?? 0) + 1;
    if (at === 3 && asked.length === 3) await hold.promise;
    return { done: 10, more: at < 4, resume: { at } };
  });
  await using dying = await harness.start({ ...compaction, JOB_ASK_TIMEOUT_MS: '30000' });
  await harness.tick('memory-replicator.memory_compaction');
  await waitFor(
    () => asked.length,
    (count) => count === 3,
  );
  dying.kill('SIGKILL');
  await dying.exited;
  hold.resolve();
  await using next = await harness.start(compaction);
  const run = await harness.run('memory-replicator.memory_compaction', 'done', new Date(0), 20_000);
  expect(asked).toEqual([undefined, 1, 2, 2, 3]);
  expect(run).toMatchObject({ done: '40', resume: null });
  await next.stop();
});
