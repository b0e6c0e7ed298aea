import { newId } from '@signalbox/contracts/ids';
import type { SpawnedService } from '@signalbox/testkit/service';
import { startSpanCollector } from '@signalbox/testkit/span-collector';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Harness, startHarness } from '../test/executor-harness.ts';
import { tools } from '../test/limit-tools.ts';

const collector = await startSpanCollector();
let harness: Harness;
let service: SpawnedService;

beforeAll(async () => {
  harness = await startHarness(tools);
  service = await harness.start({
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
    TOOL_EXECUTOR_TIMEOUT_MS: '120000',
  });
});

afterAll(async () => {
  await service?.[Symbol.asyncDispose]();
  await harness?.close();
  await collector.close();
});

test('a call is answered under its key, correlation and trace', async () => {
  const session = newId();
  const traceId = 'c0ffee'.padEnd(32, '1');
  const traceparent = `00-${traceId}-${'a'.repeat(16)}-01`;
  const callId = await harness.ask({ tool: 'echo', arguments: { text: 'hello' }, session, traceparent });
  expect(await harness.outcome(callId)).toMatchObject({
    call_id: callId,
    session_id: session,
    tool: 'echo',
    outcome: 'ok',
    output: 'hello',
    truncated: false,
  });
  const [record] = harness.records(callId);
  expect(record?.key).toBe(`acme:${session}`);
  expect(record?.headers).toMatchObject({
    reply_to: 'conversation-worker',
    correlation_id: callId,
    tenant_id: 'acme',
    session_id: session,
    schema: 'tool.results.v1',
    ce_source: 'tool-executor',
    trace_id: traceId,
  });
  const span = await collector.find(({ name }) => name === 'tool echo');
  expect(span.traceId).toBe(traceId);
  expect(span.attributes).toMatchObject({
    'signalbox.session_id': session,
    'signalbox.call_id': callId,
    'signalbox.event_id': expect.any(String),
    'signalbox.outcome': 'ok',
  });
});

test('calls that ended are forgotten a day after their topic, a few at a time, when job-worker asks for it', async () => {
  const { database } = harness;
  await harness.outcome(await harness.ask({ tool: 'echo', arguments: { text: 'kept' } }));
  const old = [0, 1, 2].map(() => harness.ask({ tool: 'echo', arguments: { text: 'old' } }));
  const ids: string[] = [];
  for (const callId of await Promise.all(old)) {
    await harness.outcome(callId);
    ids.push(callId);
  }
  await database.query(
    `UPDATE tool_executor.calls SET finished_at = finished_at - interval '9 days' WHERE key = ANY ($1::text[])`,
    [ids],
  );
  const left = () => database.query('SELECT 1 FROM tool_executor.calls WHERE key = ANY ($1::text[])', [ids]);
  expect(await harness.upkeep('work_rows', 2)).toMatchObject({ done: 2, more: true });
  expect(await left()).toHaveLength(1);
  expect(await harness.upkeep('work_rows', 2)).toMatchObject({ done: 1, more: false });
  expect(await left()).toEqual([]);
  expect(await harness.upkeep('stale_lanes', 100)).toMatchObject({ done: 0, more: false });
});

describe('what is not run is answered all the same', () => {
  test('wrong arguments, with what is wrong', async () => {
    const callId = await harness.ask({ tool: 'echo', arguments: { txt: 1 } });
    expect(await harness.outcome(callId)).toMatchObject({
      outcome: 'invalid_arguments',
      error_code: 'TOOL_INVALID_ARGUMENTS',
      message: expect.stringContaining("must have required property 'text'"),
    });
  });

  test('no such tool, or not in this release, or disabled', async () => {
    await harness.database.query(
      `INSERT INTO tool_executor.tools (tenant, name) VALUES ('acme', 'not_here')`,
    );
    await harness.database.query(`UPDATE tool_executor.tools SET enabled = false WHERE name = 'progress'`);
    for (const tool of ['nothing', 'not_here', 'progress']) {
      const callId = await harness.ask({ tool });
      expect(await harness.outcome(callId)).toMatchObject({
        outcome: 'unknown_tool',
        error_code: 'TOOL_UNKNOWN',
      });
    }
  });

  test('past its deadline', async () => {
    const callId = await harness.ask({ tool: 'die', deadlineMs: -1 });
    expect(await harness.outcome(callId)).toMatchObject({ outcome: 'error', error_code: 'TIMEOUT' });
  });
});

test('limits are named, and calls beside them go on', async () => {
  const [spin, flood, heap] = await Promise.all(
    ['spin', 'flood', 'heap'].map((tool) => harness.ask({ tool, deadlineMs: 120_000 })),
  );
  const echo = await harness.ask({ tool: 'echo', arguments: { text: 'meanwhile' } });
  expect((await harness.outcome(echo)).output).toBe('meanwhile');
  expect(harness.outcomes(spin ?? '')).toEqual([]);
  expect(await harness.outcome(spin ?? '', 1, 60_000)).toMatchObject({
    outcome: 'cpu_limit',
    error_code: 'TOOL_CPU_LIMIT',
  });
  expect(await harness.outcome(heap ?? '', 1, 60_000)).toMatchObject({ outcome: 'memory_limit' });
  const flooded = await harness.outcome(flood ?? '', 1, 60_000);
  expect(flooded).toMatchObject({ outcome: 'output_limit', truncated: true });
  expect(flooded.output.length).toBe(5_000);
  // It ran long enough to tell that it had started, before the outcome.
  expect(harness.records(spin ?? '').map(({ eventType }) => eventType)).toEqual([
    'tool.started',
    'tool.outcome',
  ]);
  expect(await service.metric('tool_executor_requests_total', { tool: 'spin', outcome: 'cpu_limit' })).toBe(
    1,
  );
  expect(await service.metric('tool_executor_execution_seconds_count', { tool: 'spin' })).toBe(1);
}, 120_000);

test("a tool's child that dies is an error, and the deadline bounds the wall time", async () => {
  const [die, sleep] = [
    await harness.ask({ tool: 'die' }),
    await harness.ask({ tool: 'sleep', deadlineMs: 600 }),
  ];
  expect(await harness.outcome(die)).toMatchObject({ outcome: 'error', error_code: 'TOOL_FAILED' });
  const slept = await harness.outcome(sleep);
  expect(slept.outcome).toBe('wall_limit');
  expect(slept.duration_ms).toBeLessThan(1_500);
});

test('calls of one session run beside each other', async () => {
  const session = newId();
  const began = performance.now();
  const calls = await Promise.all(
    Array.from({ length: 4 }, () => harness.ask({ tool: 'sleep', session, deadlineMs: 900 })),
  );
  await Promise.all(calls.map((callId) => harness.outcome(callId)));
  expect(performance.now() - began).toBeLessThan(2_000); // one after the other: 3.6 s
});

test('a request that comes again is answered from its outcome, not run', async () => {
  const callId = await harness.ask({ tool: 'look_around' });
  const first = await harness.outcome(callId);
  await harness.ask({ tool: 'look_around', callId, replyTo: 'gateway' });
  const second = await harness.outcome(callId, 2);
  expect(second).toEqual(first); // the pid of its process among it
  const [one, two] = harness.records(callId);
  expect(two?.eventId).not.toBe(one?.eventId);
  expect(two?.headers.reply_to).toBe('gateway');
});

test('a row that this release cannot read ends as failed and holds nobody up', async () => {
  const id = newId();
  await harness.database.query('SELECT tool_executor.work_enqueue($1)', [
    JSON.stringify([{ tenant: 'acme', id, key: 'strange', payload: { from: 'elsewhere' } }]),
  ]);
  const [row] = await waitFor(
    () =>
      harness.database.query<{ state: string; attempt: number }>(
        'SELECT state, attempt FROM tool_executor.calls WHERE id = $1',
        [id],
      ),
    ([found]) => found?.state === 'failed',
  );
  expect(row?.attempt).toBe(1);
});

test('the catalog is published once, and again when an entry changes', async () => {
  const published = () => harness.catalog().filter(({ name }) => name === 'echo');
  await waitFor(published, (entries) => entries.length === 1);
  expect(published()[0]).toMatchObject({ name: 'echo', idempotent: true, enabled: true, version: 2 });
  expect(published()[0]?.parameters).toMatchObject({ required: ['text'] });
  await harness.database.query(
    `UPDATE tool_executor.tools SET description = 'Says it again.' WHERE name = 'echo'`,
  );
  await waitFor(published, (entries) => entries.length === 2, { label: 'the changed entry' });
  expect(published()[1]).toMatchObject({ version: 3, description: 'Says it again.' });
  await harness.database.query(`INSERT INTO tool_executor.tools (tenant, name) VALUES ('globex', 'echo')`);
  await waitFor(published, (entries) => entries.length === 3, { label: 'the entry of another tenant' });
  expect(harness.catalog().filter(({ name }) => name === 'spin')).toHaveLength(1);
  expect(harness.catalog().filter(({ name }) => name === 'not_here')).toEqual([]);
});

test('health tells of the pool, and row level security shows no tenant to nobody', async () => {
  const health: unknown = await (await fetch(`${service.url}/health`)).json();
  expect(health).toMatchObject({
    status: 'ok',
    checks: {
      database: { status: 'ok' },
      kafka: { status: 'ok' },
      worker_pool: { status: 'ok', size: 4, busy: 0, queued: 0, completed_total: expect.any(Number) },
    },
  });
  const [forced] = await harness.database.query<{ all: boolean }>(
    `SELECT bool_and(relrowsecurity AND relforcerowsecurity) AS all FROM pg_class
     WHERE relnamespace = 'tool_executor'::regnamespace AND relkind = 'r'`,
  );
  expect(forced?.all).toBe(true);
});
