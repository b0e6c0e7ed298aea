import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { type MemorySimulator, startMemorySimulator } from './server.ts';

let backend: MemorySimulator;
beforeAll(async () => {
  backend = await startMemorySimulator();
});
afterEach(() => backend.setFaults([]));
afterAll(() => backend.close());

const headers = { 'x-tenant-id': 'acme', 'idempotency-key': 'request' };
const post = (path: string, body: object, more: Record<string, string> = {}) =>
  fetch(`${backend.url}${path}`, {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { ...headers, ...more },
  });
const said = (id: string, version = 1, text = 'said') => ({
  ...{ memory_id: id, version, text },
  idempotency_key: `${id} ${version}`,
});
const admin = async (path: string) => JSON.parse(await (await fetch(`${backend.url}${path}`)).text());

test('a key has one effect, and the highest version is held', async () => {
  await post('/memory/remember', said('m1', 2, 'new'));
  expect((await post('/memory/remember', said('m1', 2, 'new'))).status).toBe(200);
  await post('/memory/remember', said('m1', 1, 'old'));
  expect(await admin('/admin/memories?tenant=acme')).toMatchObject([
    { memory_id: 'm1', version: 2, deleted: false },
  ]);
  expect(await admin('/admin/effects')).toMatchObject({ 'acme m1 2': { sent: 2, effects: 1 } });
  await post('/recall/delete', said('m1', 3));
  expect(backend.held('acme')).toMatchObject([{ memory_id: 'm1', version: 3, deleted: true }]);
  expect(backend.held('globex')).toEqual([]);
});

test('a batch is answered one by one, and may be refused in part', async () => {
  backend.setFaults([{ refuse: 'bad', times: 1 }]);
  const answer = await post('/memory/remember/batch', { memories: [said('m2'), said('m3', 1, 'a bad one')] });
  expect(await answer.json()).toEqual({
    results: [
      { memory_id: 'm2', version: 1, status: 200 },
      { memory_id: 'm3', version: 1, status: 422 },
    ],
  });
  expect(backend.held().map(({ memory_id: id }) => id)).not.toContain('m3');
});

test('faults come as ordered: so often, for one tenant, with or without the effect', async () => {
  const order = [
    { status: 503, retryAfterSeconds: 2, times: 1 },
    { lostAnswer: true, times: 1 },
    { reset: true },
  ];
  await fetch(`${backend.url}/admin/faults`, { method: 'PUT', body: JSON.stringify(order) });
  const busy = await post('/memory/remember', said('m4'));
  expect([busy.status, busy.headers.get('retry-after')]).toEqual([503, '2']);
  expect(backend.held().map(({ memory_id: id }) => id)).not.toContain('m4');
  await expect(post('/memory/remember', said('m4'))).rejects.toThrow();
  expect(backend.held().map(({ memory_id: id }) => id)).toContain('m4');
  await expect(post('/memory/remember', said('m5'))).rejects.toThrow();
  expect(backend.held().map(({ memory_id: id }) => id)).not.toContain('m5');
  backend.setFaults([{ tenant: 'globex', status: 500 }]);
  expect((await post('/memory/remember', said('m5'))).status).toBe(200);
  expect((await post('/memory/remember', said('m5'), { 'x-tenant-id': 'globex' })).status).toBe(500);
});

test('what it does not understand it refuses', async () => {
  expect((await post('/memory/remember', { text: 'no id' })).status).toBe(422);
  expect((await fetch(`${backend.url}/memory/remember`, { method: 'POST', body: '{}' })).status).toBe(422);
  const wrong = await fetch(`${backend.url}/admin/faults`, { method: 'PUT', body: '{"nothing": 1}' });
  expect(wrong.status).toBe(422);
  expect((await post('/memory/unknown', {})).status).toBe(404);
});
