import { newId } from '@signalbox/contracts/ids';
import type { SpawnedService } from '@signalbox/testkit/service';
import { type SpanCollector, startSpanCollector } from '@signalbox/testkit/span-collector';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import {
  type Backend,
  type Harness,
  memory,
  startBackend,
  startHarness,
  tenant,
} from '../test/sync-harness.ts';

let harness: Harness;
let backend: Backend;
let collector: SpanCollector;

beforeAll(async () => {
  [harness, backend, collector] = await Promise.all([startHarness(), startBackend(), startSpanCollector()]);
});
afterEach(() => backend.faults());
afterAll(async () => {
  await harness?.close();
  await backend?.close();
  await collector?.close();
});

const start = (more: Record<string, string> = {}) =>
  harness.start({ MEMORY_BACKEND_URL: backend.url, ...more });

/** Every key that was sent had its effect once. */
async function oneEffectEach(): Promise<void> {
  const all = Object.entries(await backend.effects());
  expect(all.filter(([, { effects }]) => effects !== 1)).toEqual([]);
}

const sent = async (key: string) => (await backend.effects())[`${tenant} ${key}`];

describe('with a memory backend', () => {
  let service: SpawnedService;
  beforeAll(async () => {
    service = await start({
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      MEMORY_SYNC_MAX_TRIES: '3',
      MEMORY_SYNC_RETRY_MAX_MS: '2000',
    });
  });
  afterAll(() => service?.[Symbol.asyncDispose]());

  test('a memory is in memory.wal only once the backend has it; versions and the deletion follow each other', async () => {
    await backend.faults({ latencyMs: 300 });
    const first = memory('first', { role: 'user', metadata: { source: 'turn' } });
    await harness.write([first]);
    await waitFor(
      () => harness.states(first.memory_id),
      (rows) => rows[0]?.state === 'waiting',
    );
    expect(harness.versions(first.memory_id)).toEqual([]);
    await harness.inWal(first.memory_id, [1]);
    expect(await backend.held()).toMatchObject([
      {
        memory_id: first.memory_id,
        version: 1,
        body: { text: 'first', role: 'user', metadata: { source: 'turn' } },
      },
    ]);
    await backend.faults();
    await harness.write([memory('second', { memory_id: first.memory_id })]);
    await harness.forget(first.memory_id);
    expect(await harness.inWal(first.memory_id, [1, 2, 3])).toEqual([1, 2, 3]);
    expect(await backend.held()).toMatchObject([{ memory_id: first.memory_id, version: 3, deleted: true }]);
    await waitFor(
      () => service.metric('memory_sync_backlog'),
      (count) => count === 0,
    );
    await oneEffectEach();
  });

  test('memories of one turn go out in one request, and what it refuses of them fails alone, visibly', async () => {
    await backend.faults({ refuse: 'unwanted' });
    const items = Array.from({ length: 10 }, (_, at) =>
      memory(at === 4 ? 'an unwanted one' : `wanted ${at}`),
    );
    const before = (await backend.requests()).length;
    await harness.write(items);
    for (const [at, item] of items.entries()) if (at !== 4) await harness.inWal(item.memory_id, [1]);
    const refused = items[4]?.memory_id ?? '';
    await waitFor(
      () => harness.states(refused),
      (rows) => rows[0]?.state === 'failed',
    );
    expect(await harness.states(refused)).toMatchObject([
      { state: 'failed', last_error: expect.stringContaining('MEMORY_BACKEND_REFUSED') },
    ]);
    const requests = (await backend.requests()).slice(before);
    expect(requests).toMatchObject([{ path: '/memory/remember/batch', count: 10, tenant }]);
    // Final at once: one try.
    expect(await service.log('memory.push_failed')).toMatchObject({ memory_id: refused, attempt: 1 });
    await waitFor(
      async () => [await service.metric('memory_sync_failed'), await service.metric('memory_sync_backlog')],
      ([failed, open]) => failed === 1 && open === 1,
    );
    const told = await waitFor(
      () => harness.notifications.find(({ value }) => Reflect.get(Object(value), 'kind') === 'memory.failed'),
      (found) => found !== undefined,
    );
    expect(told?.value).toMatchObject({
      data: { memory_id: refused, version: 1, error_code: 'MEMORY_BACKEND_REFUSED' },
    });
  });

  test('a lost answer, an answer that never comes and a reset are pushed again under the same key, with one effect', async () => {
    const items = ['lost answer', 'hang', 'reset'].map((text) => memory(text));
    await backend.faults(
      { match: 'lost answer', lostAnswer: true, times: 2 },
      { match: '"hang"', hang: true, times: 1 },
      { match: '"reset"', reset: true, times: 1 },
    );
    for (const item of items) await harness.write([item]);
    for (const item of items) expect(await harness.inWal(item.memory_id, [1])).toEqual([1]);
    expect((await sent(items[0]?.idempotency_key ?? ''))?.sent).toBeGreaterThanOrEqual(3);
    await oneEffectEach();
  });

  test('Retry-After is waited for', async () => {
    await backend.faults({ status: 429, retryAfterSeconds: 1, times: 1 });
    const item = memory('told to wait');
    const began = performance.now();
    await harness.write([item]);
    await harness.inWal(item.memory_id, [1]);
    expect(performance.now() - began).toBeGreaterThan(1_000);
  });

  test('tries are spent, it has failed visibly, later versions go on; requeue gives a second chance in order', async () => {
    const item = memory('never taken');
    await backend.faults({ match: 'never taken', status: 500 });
    await harness.write([item]);
    const failed = await service.log('memory.push_failed', (record) => record.memory_id === item.memory_id);
    expect(failed).toMatchObject({ attempt: 3, error_code: 'MEMORY_BACKEND_UNAVAILABLE' });
    expect(await harness.states(item.memory_id)).toMatchObject([{ state: 'failed' }]);
    await backend.faults();
    await requeue(item.memory_id);
    expect(await harness.inWal(item.memory_id, [1])).toEqual([1]);

    // A later version that was stored meanwhile stands: the requeued one before it is not sent any more.
    await backend.faults({ match: 'passed over', status: 500 });
    const old = memory('passed over');
    await harness.write([old]);
    await waitFor(
      () => harness.states(old.memory_id),
      (rows) => rows[0]?.state === 'failed',
    );
    await harness.write([memory('newer words', { memory_id: old.memory_id })]);
    expect(await harness.inWal(old.memory_id, [2])).toEqual([2]);
    expect(await harness.states(old.memory_id)).toMatchObject([{ state: 'superseded' }, { state: 'stored' }]);
    expect(await requeue(old.memory_id)).toBe(0);
  });

  test('one trace leads from the write over the push to the record of memory.wal', async () => {
    const traceId = newId().replaceAll('-', '');
    const item = memory('traced');
    await harness.write([item], { traceparent: `00-${traceId}-00f067aa0ba902b7-01` });
    await harness.inWal(item.memory_id, [1]);
    const names = ['process memory.writes', 'push memory', 'POST /memory/remember', 'publish memory.wal'];
    const spans = await collector.untilTrace(traceId, (all) =>
      names.every((name) => all.some((span) => span.name === name)),
    );
    const [process, push, request, publish] = names.map((name) => spans.find((span) => span.name === name));
    expect(process?.parentSpanId).toBe('00f067aa0ba902b7');
    expect(push?.parentSpanId).toBe(process?.spanId);
    expect(request?.parentSpanId).toBe(push?.spanId);
    expect(publish?.parentSpanId).toBe(push?.spanId);
    expect((await backend.requests()).at(-1)?.traceparent).toBe(`00-${traceId}-${request?.spanId}-01`);
    const record = harness.wal.find(({ key }) => key.endsWith(item.memory_id));
    expect(record?.headers.traceparent).toContain(traceId);
  });
});

describe('when it or a replica is not there', () => {
  test('while the backend is down the breaker keeps it from being called, no try is spent on that, and all is in memory.wal in order when it is back', async () => {
    await using service = await start({ MEMORY_SYNC_MAX_TRIES: '20' });
    await backend.faults({ status: 503 });
    const firsts = Array.from({ length: 12 }, (_, at) => memory(`down ${at}`));
    for (const item of firsts) await harness.write([item]);
    await service.log('breaker.opened');
    const later = firsts.map(({ memory_id }, at) => memory(`down again ${at}`, { memory_id }));
    await harness.write(later);
    expect(await (await fetch(`${service.url}/ready`)).json()).toMatchObject({ status: 'ready' });
    await waitFor(
      async () => await (await fetch(`${service.url}/health`)).json(),
      (health) => Reflect.get(Object(health), 'checks')?.memory_backend?.status === 'degraded',
    );
    const asked = (await backend.requests()).length;
    await service.log('memory.push_waits');
    expect((await backend.requests()).length - asked).toBeLessThan(20);
    await backend.faults();
    for (const item of firsts)
      expect(await harness.inWal(item.memory_id, [1, 2], tenant, 30_000)).toEqual([1, 2]);
    await oneEffectEach();
  });

  test('a stop lets pushes that are under way end, and leaves the rest to others', async () => {
    const service = await start({ MEMORY_SYNC_MAX_CONCURRENT: '2' });
    await backend.faults({ latencyMs: 500 });
    const items = Array.from({ length: 8 }, (_, at) => memory(`stopped ${at}`));
    for (const item of items) await harness.write([item]);
    await waitFor(backend.requests, (requests) => requests.length > 0);
    await waitFor(
      () => harness.states(items[7]?.memory_id ?? ''),
      (rows) => rows.length === 1,
    );
    expect(await service.stop()).toMatchObject({ code: 0 });
    const [left] = await harness.database.query<{ running: string; waiting: string }>(
      `select count(*) filter (where state = 'running') as running, count(*) filter (where state = 'ready') as waiting
       from memory_sync.pushes where finished_at is null`,
    );
    expect(left?.running).toBe('0');
    expect(Number(left?.waiting)).toBeGreaterThan(0);
    await backend.faults();
    await using _ = await start();
    for (const item of items) expect(await harness.inWal(item.memory_id, [1])).toEqual([1]);
    await oneEffectEach();
  });
});

/** As `signalbox memory requeue` does. */
async function requeue(memoryId: string): Promise<number> {
  const [row] = await harness.database.query<{ requeue: number }>(
    'select memory_sync.requeue($1, $2, 100) as requeue',
    [tenant, memoryId],
  );
  return row?.requeue ?? 0;
}
