import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, startHarness } from '../test/jobs-harness.ts';

let harness: Harness;

beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness?.close());

test('killed half-way, an export is begun again elsewhere: one file, one notification', async () => {
  await using dying = await harness.start({ FAIL_POINT: 'export.page_written:2' });
  const { sessionId, rows } = harness.session(7);
  const jobId = await harness.request('export_session', { session_id: sessionId });
  expect((await dying.exited).signal).toBe('SIGKILL');
  await using next = await harness.start();
  expect(await harness.ended(jobId)).toMatchObject({ status: 'done', attempts: 2, result: { rows: 7 } });
  await next.log('jobs.freed');
  expect(harness.exported(jobId)).toEqual({
    names: [`${jobId}.ndjson`],
    lines: [...rows, { end: true, count: 7 }],
  });
  expect(await harness.told(jobId)).toHaveLength(1);
});

test('a stop takes no new jobs, lets what runs end within its bound and gives the rest back', async () => {
  const stopping = await harness.start({ SHUTDOWN_TIMEOUT_MS: '6000', JOB_ASK_TIMEOUT_MS: '60000' });
  const hanging = harness.session(3);
  const quick = harness.session(3, 'globex');
  const answerQuick = harness.holdPages(({ sessionId }) => sessionId === quick.sessionId);
  const answerHanging = harness.holdPages(({ sessionId }) => sessionId === hanging.sessionId);
  const given = await harness.request('export_session', { session_id: hanging.sessionId });
  const ended = await harness.request('export_session', { session_id: quick.sessionId }, { of: 'globex' });
  await Promise.all([answerQuick.asked, answerHanging.asked]);
  const stopped = stopping.stop();
  await stopping.log('shutdown.step', ({ step }) => step === 'consumer jobs.commands');
  const late = await harness.request('export_memory', {}, { of: 'initech' });
  answerQuick();
  const { code, ms } = await stopped;
  expect([code, ms < 6_000]).toEqual([0, true]);
  const outcomes = stopping.logs
    .filter(({ event }) => event === 'job.finished')
    .map(({ outcome }) => outcome);
  expect(outcomes).toEqual(['done', 'given_back']);
  expect(await harness.stored(ended)).toEqual({ status: 'done', attempts: 1 });
  answerHanging();

  await using _next = await harness.start();
  expect(await harness.ended(given)).toMatchObject({ status: 'done', attempts: 2 });
  expect((await harness.ended(late, 'initech')).attempts).toBe(1);
  expect(harness.exported(given).lines).toEqual([...hanging.rows, { end: true, count: 3 }]);
  expect(await harness.told(given)).toHaveLength(1);
});
