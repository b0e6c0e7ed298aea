import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { newId } from '@signalbox/contracts/ids';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, startHarness, tenant } from '../test/jobs-harness.ts';

let harness: Harness;
let service: SpawnedService;

beforeAll(async () => {
  harness = await startHarness();
  service = await harness.start();
});
afterAll(async () => {
  await service.stop();
  await harness.close();
});

const rowsOf = (count: number) => Array.from({ length: count }, (_, i) => ({ n: i, text: `row ${i}` }));

function session(count: number, of = tenant): string {
  const id = newId();
  harness.gateway.sessions.set(`${of} ${id}`, rowsOf(count));
  return id;
}

const told = (jobId: string) =>
  harness.notifications.filter(({ value }) => value.data?.job_id === jobId).map(({ value }) => value);

test('an export is a file with a header, its rows and an end, and a link that people are told of', async () => {
  const sessionId = session(5);
  const traceId = newId().replaceAll('-', '');
  const traceparent = `00-${traceId}-00f067aa0ba902b7-01`;
  const jobId = await harness.request('export_session', { session_id: sessionId }, { traceparent });
  const job = await harness.ended(jobId);
  expect(job).toMatchObject({ kind: 'export_session', status: 'done', attempts: 1, result: { rows: 5 } });
  const lines = readFileSync(join(harness.exportDir, tenant, `${jobId}.ndjson`), 'utf8')
    .trim()
    .split('\n');
  expect(lines.map((line) => JSON.parse(line))).toEqual([
    expect.objectContaining({ export: 'export_session', job_id: jobId, tenant }),
    ...rowsOf(5),
    { end: true, count: 5 },
  ]);
  const [notification] = await waitFor(
    () => told(jobId),
    (found) => found.length > 0,
  );
  expect(notification).toMatchObject({
    kind: 'export.ready',
    session_id: sessionId,
    data: { url: job.result?.url },
  });
  expect(harness.spans.some((each) => each.includes(traceId))).toBe(true);
  expect(readdirSync(join(harness.exportDir, tenant))).toContain(`${jobId}.ndjson`);
});
