import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { newId } from '@signalbox/contracts/ids';
import type { SpawnedService } from '@signalbox/testkit/service';
import { startSpanCollector } from '@signalbox/testkit/span-collector';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, secret, startHarness, tenant } from '../test/jobs-harness.ts';
import { exportUrl } from './export-link.ts';

const maxRows = 20;
const collector = await startSpanCollector();
let harness: Harness;
let service: SpawnedService;

beforeAll(async () => {
  harness = await startHarness();
  service = await harness.start({
    EXPORT_MAX_ROWS: String(maxRows),
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
  });
});
afterAll(async () => {
  await service?.[Symbol.asyncDispose]();
  await harness?.close();
  await collector.close();
});

const fileOf = (jobId: string, of = tenant) => join(harness.exportDir, of, `${jobId}.ndjson`);
const linesOf = (text: string): unknown[] =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
/** The path and query of a link, asked of the service of this test. */
const follow = (url: unknown) => {
  const { pathname, search } = new URL(String(url));
  return fetch(`${service.url}${pathname}${search}`);
};

test('an export is a file with a header, its rows and an end, and people are told of its link', async () => {
  const { sessionId, rows } = harness.session(5);
  const traceId = newId().replaceAll('-', '');
  const traceparent = `00-${traceId}-00f067aa0ba902b7-01`;
  const jobId = await harness.request('export_session', { session_id: sessionId }, { traceparent });
  const job = await harness.ended(jobId);
  expect(job).toMatchObject({ kind: 'export_session', status: 'done', attempts: 1, result: { rows: 5 } });
  const text = readFileSync(fileOf(jobId), 'utf8');
  expect(linesOf(text)).toEqual([
    expect.objectContaining({ export: 'export_session', job_id: jobId, tenant }),
    ...rows,
    { end: true, count: 5 },
  ]);
  expect(job.result?.bytes).toBe(Buffer.byteLength(text));

  const [told] = await harness.told(jobId);
  expect(told).toMatchObject({ kind: 'export.ready', session_id: sessionId, data: { url: job.result?.url } });
  const reply = await follow(job.result?.url);
  expect(reply.status).toBe(200);
  expect(reply.headers.get('content-type')).toBe('application/x-ndjson');
  expect(reply.headers.get('content-disposition')).toBe(`attachment; filename="${jobId}.ndjson"`);
  expect(await reply.text()).toBe(text);

  // Its run is in the trace of its request, and so are the questions that it asks.
  const spans = await collector.untilTrace(traceId, (found) =>
    found.some(({ name }) => name === 'job export_session'),
  );
  const names = spans.map(({ name }) => name);
  expect(names).toContain('ask jobs.commands');
  expect(await service.metric('jobs_total', { task: 'export_session', outcome: 'done' })).toBe(1);
});

test('an export of memories holds those of the namespaces that were asked for', async () => {
  const memory = (namespace: string) => ({
    ...{ memory_id: newId(), version: 1, namespace, role: 'note', text: `of ${namespace}` },
    occurred_at: new Date().toISOString(),
  });
  const [one, other] = [memory('default'), memory('other')];
  harness.memories.set(tenant, [one, other]);
  const jobId = await harness.request('export_memory', { namespaces: ['other'] });
  expect(await harness.ended(jobId)).toMatchObject({ status: 'done', result: { rows: 1 } });
  expect(linesOf(readFileSync(fileOf(jobId), 'utf8'))).toContainEqual(other);
});

test('a session that does not exist is a failed job with a clear error', async () => {
  const jobId = await harness.request('export_session', { session_id: newId() });
  expect(await harness.ended(jobId)).toMatchObject({
    status: 'failed',
    attempts: 1,
    error: 'NOT_FOUND: no such session',
  });
  const [told] = await harness.told(jobId);
  expect(told).toMatchObject({ kind: 'export.failed', level: 'error', body: 'NOT_FOUND: no such session' });
});

test('arguments that no export has are a failed job too', async () => {
  const ids = [
    await harness.request('export_session', {}),
    await harness.request('export_memory', { namespaces: ['Not a name'] }),
  ];
  for (const jobId of ids) {
    expect((await harness.ended(jobId)).error).toMatch(/^VALIDATION_ERROR: /);
  }
});

test('an export over a limit fails and leaves no file', async () => {
  const { sessionId } = harness.session(maxRows + 1);
  const jobId = await harness.request('export_session', { session_id: sessionId });
  expect((await harness.ended(jobId)).error).toMatch(/^BODY_TOO_LARGE: .*EXPORT_MAX_ROWS/);
  expect(readdirSync(join(harness.exportDir, tenant)).filter((name) => name.includes(jobId))).toEqual([]);
});

test('a request that comes again is one job, one file and one notification', async () => {
  const { sessionId } = harness.session(1);
  const jobId = newId();
  for (let time = 0; time < 3; time += 1) {
    await harness.request('export_session', { session_id: sessionId }, { jobId });
  }
  await harness.ended(jobId);
  await harness.request('export_session', { session_id: sessionId }, { jobId });
  await waitFor(
    () => service.metric('inbox_duplicates_total', { consumer: 'job-worker' }),
    (count) => count === 3,
  );
  expect(await harness.database.query('SELECT 1 FROM graphile_worker.jobs')).toEqual([]);
  expect((await harness.ended(jobId)).attempts).toBe(1);
  expect(await harness.told(jobId)).toHaveLength(1);
});

test('an owner that does not answer at once is asked again after a while', async () => {
  const { sessionId } = harness.session(1);
  const jobId = newId();
  let silences = 1;
  harness.gateway.beforePage = async (asked) => {
    if (asked.sessionId === sessionId && silences-- > 0) await new Promise(() => undefined);
  };
  await harness.request('export_session', { session_id: sessionId }, { jobId });
  expect(await harness.ended(jobId)).toMatchObject({ status: 'done', attempts: 2 });
  const failed = await service.log('job.finished', ({ outcome }) => outcome === 'retried');
  expect(failed).toMatchObject({ task: 'export_session', error_code: 'OWNER_TIMEOUT' });
});

test('tenants see their own jobs, newest first, and no others', async () => {
  const of = 'globex';
  const made: string[] = [];
  for (let n = 0; n < 3; n += 1) {
    const jobId = await harness.request('export_memory', {}, { of });
    await harness.ended(jobId, of);
    made.unshift(jobId);
  }
  const all = await harness.ask(of, {});
  expect(all.jobs.map((job) => job.job_id)).toEqual(made);
  const page = await harness.ask(of, { before: made[0] ?? '', limit: 1 });
  expect(page.jobs.map((job) => job.job_id)).toEqual([made[1]]);
  expect((await harness.ask(tenant, { job_id: made[0] ?? '' })).jobs).toEqual([]);
  expect((await harness.ask(tenant, {})).jobs.map((job) => job.job_id)).not.toContain(made[0]);
  // One tenant's link names another tenant's file no more than a link that was made up.
  const url = new URL(String(all.jobs[0]?.result?.url));
  url.searchParams.set('tenant', tenant);
  expect((await follow(url)).status).toBe(403);
});

test('a link that was changed or has expired is refused, and a file that is gone is not found', async () => {
  const { sessionId } = harness.session(1);
  const jobId = await harness.request('export_session', { session_id: sessionId });
  const good = new URL(String((await harness.ended(jobId)).result?.url));
  const changed = (name: string, value: string | undefined) => {
    const url = new URL(good);
    if (value === undefined) url.searchParams.delete(name);
    else url.searchParams.set(name, value);
    return url;
  };
  const past = Math.floor(Date.now() / 1_000) - 1;
  const bad = [
    changed(
      'signature',
      good.searchParams.get('signature')?.replace(/^./, (c) => (c === 'A' ? 'B' : 'A')),
    ),
    changed('signature', 'short'),
    changed('signature', undefined),
    changed('expires', String(Number(good.searchParams.get('expires')) + 1)),
    changed('expires', 'soon'),
    changed('tenant', '../acme'),
    new URL(good.href.replace(jobId, newId())),
    exportUrl(good.origin, { tenant, jobId, expires: past }, secret),
  ];
  for (const url of bad) {
    const reply = await follow(url);
    expect(reply.status, String(url)).toBe(403);
    expect(await reply.json()).toMatchObject({ error_code: 'FORBIDDEN', status: 403 });
  }
  rmSync(fileOf(jobId));
  const gone = await follow(good);
  expect([gone.status, gone.headers.get('content-type')]).toEqual([
    404,
    'application/problem+json; charset=utf-8',
  ]);
});
