import { isFault } from '@signalbox/faults/fault';
import type { BoundedFetch } from '@signalbox/http-client/bounded-fetch';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { afterEach, expect, test, vi } from 'vitest';
import { type MemoryBackend, memoryBackend, type Remembering, retryAfterIn } from './memory-backend.ts';

let backend: MemoryBackend | undefined;
afterEach(() => backend?.close());

/** Answers by its rule, without a network: what is under test is how an answer is read. */
function answering(answer: (path: string, body: { memories?: { memory_id: string }[] }) => Response) {
  const paths: string[] = [];
  const http: BoundedFetch = {
    async fetch(input, init) {
      const { pathname } = new URL(String(input));
      paths.push(pathname);
      return answer(pathname, JSON.parse(String(init?.body)));
    },
    connections: () => 0,
    close: () => undefined,
  };
  const options = { baseUrl: 'http://backend/', apiKey: undefined, timeoutMs: 500, resetTimeoutMs: 20, http };
  backend = memoryBackend({ ...options, log: silentLog, metrics: silentMetrics });
  return { backend, paths };
}

const remembering = (id: string): Remembering => ({
  ...{ version: 1, idempotencyKey: id.repeat(64), traceparent: undefined },
  item: {
    ...{ memory_id: id, idempotency_key: id.repeat(64), namespace: 'default', role: 'note' as const },
    ...{ text: id, occurred_at: '2026-01-01T00:00:00Z' },
  },
});

const codes = (failures: readonly unknown[]) =>
  failures.map((failure) => (isFault(failure) ? failure.code : failure));

test('each of a batch is judged by its own status, one that is left out is not known', async () => {
  const results = [
    { memory_id: 'a', version: 1, status: 201 },
    { memory_id: 'b', version: 1, status: 409 },
    { memory_id: 'c', version: 1, status: 503 },
    { memory_id: 'd', version: 2, status: 200 },
  ];
  const { backend } = answering(() => Response.json({ results }));
  expect(codes(await backend.remember('acme', ['a', 'b', 'c', 'd'].map(remembering)))).toEqual([
    undefined,
    'MEMORY_BACKEND_REFUSED',
    'MEMORY_BACKEND_UNAVAILABLE',
    'MEMORY_BACKEND_UNAVAILABLE',
  ]);
});

test('a batch that is refused as a whole is asked for one by one', async () => {
  const { backend, paths } = answering(
    (path) => new Response(null, { status: path.endsWith('batch') ? 413 : 200 }),
  );
  expect(await backend.remember('acme', ['a', 'b'].map(remembering))).toEqual([undefined, undefined]);
  expect(paths).toEqual(['/memory/remember/batch', '/memory/remember', '/memory/remember']);
});

test.each([
  [200, undefined],
  [204, undefined],
  [302, 'MEMORY_BACKEND_UNAVAILABLE'],
  [400, 'MEMORY_BACKEND_REFUSED'],
  [401, 'MEMORY_BACKEND_UNAVAILABLE'],
  [403, 'MEMORY_BACKEND_UNAVAILABLE'],
  [404, 'MEMORY_BACKEND_REFUSED'],
  [408, 'MEMORY_BACKEND_UNAVAILABLE'],
  [425, 'MEMORY_BACKEND_UNAVAILABLE'],
  [429, 'MEMORY_BACKEND_UNAVAILABLE'],
  [500, 'MEMORY_BACKEND_UNAVAILABLE'],
])('%i of one memory is %s', async (status, code) => {
  const { backend } = answering(() => new Response(null, { status, headers: { 'retry-after': '3' } }));
  const [failure] = await backend.remember('acme', [remembering('a')]);
  expect(failure?.code).toBe(code);
  expect(failure?.retryAfterMs).toBe(code === 'MEMORY_BACKEND_UNAVAILABLE' ? 3_000 : undefined);
});

test('while it is not known whether the backend is back, one memory goes ahead of the others', async () => {
  let down = true;
  const { backend, paths } = answering(() => new Response(null, { status: down ? 503 : 200 }));
  for (let calls = 0; calls < 5; calls += 1) await backend.remember('acme', [remembering('a')]);
  expect(backend.state).toBe('open');
  const asked = paths.length;
  expect(codes(await backend.remember('acme', ['a', 'b', 'c'].map(remembering)))).toEqual(
    Array(3).fill('BREAKER_OPEN'),
  );
  expect(paths.length).toBe(asked);
  await vi.waitFor(() => expect(backend.state).toBe('half-open'), { interval: 2 });
  expect(codes(await backend.remember('acme', ['a', 'b', 'c'].map(remembering)))).toEqual([
    ...['MEMORY_BACKEND_UNAVAILABLE', 'BREAKER_OPEN', 'BREAKER_OPEN'],
  ]);
  down = false;
  await vi.waitFor(() => expect(backend.state).toBe('half-open'), { interval: 2 });
  const back = await backend.remember('acme', ['a', 'b', 'c'].map(remembering));
  expect(back[0]).toBeUndefined();
  expect(paths.slice(-2)).toEqual(['/memory/remember', '/memory/remember/batch']);
});

test('what the backend does not know is forgotten there', async () => {
  const { backend } = answering(() => new Response(null, { status: 404 }));
  await expect(backend.forget('acme', 'a', 2, 'key')).resolves.toBeUndefined();
});

test('an answer without end, or one that is no JSON, is none', async () => {
  const long = 'x'.repeat((1 << 20) + 1);
  const { backend } = answering(() => new Response(long));
  expect(codes(await backend.remember('acme', ['a', 'b'].map(remembering)))).toEqual([
    'MEMORY_BACKEND_UNAVAILABLE',
    'MEMORY_BACKEND_UNAVAILABLE',
  ]);
});

test('Retry-After is seconds or a date', () => {
  const now = Date.parse('2026-01-01T00:00:00Z');
  expect(retryAfterIn('7', now)).toBe(7_000);
  expect(retryAfterIn('Thu, 01 Jan 2026 00:00:05 GMT', now)).toBe(5_000);
  expect(retryAfterIn('Thu, 01 Jan 2025 00:00:05 GMT', now)).toBe(0);
  expect(retryAfterIn('soon', now)).toBeUndefined();
  expect(retryAfterIn(null, now)).toBeUndefined();
});
