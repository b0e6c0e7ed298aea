import { newId } from '@signalbox/contracts/ids';
import { call } from '@signalbox/testkit/api-call';
import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type GatewayFixture, gatewayFixture, post, turnEvents } from './gateway-fixture.ts';

/** The gateway beside those who own what it asks for: memory-sync, memory-replicator, job-worker. No stand-ins. */

let fixture: GatewayFixture;
let gateway: SpawnedService;
let jobWorker: SpawnedService;
const others: SpawnedService[] = [];
let acme: string;
let globex: string;

beforeAll(async () => {
  fixture = await gatewayFixture();
  await fixture.topics.create();
  ({ acme, globex } = fixture.keys);
  const start = async (name: string, env: Record<string, string> = {}) => {
    const service = await spawnService(name, { ...fixture.env, ...env }, { timeoutMs: 90_000 });
    others.push(service);
    await service.ready(60_000);
    return service;
  };
  gateway = await fixture.start();
  jobWorker = await start('job-worker', { NOTIFICATIONS_JANITOR_ENABLED: 'true' });
  for (const name of ['memory-sync', 'memory-replicator', 'outbox-sync']) await start(name);
}, 240_000);
afterAll(async () => {
  await Promise.all(others.map((service) => service[Symbol.asyncDispose]()));
  await fixture?.close();
});

interface Found {
  readonly memories: readonly {
    readonly memory_id: string;
    readonly text: string;
    readonly version: number;
  }[];
}
const search = async (query: string, key = acme) => {
  const { status, body } = await call<Found>(gateway, '/v1/memory/search', { key, body: { query } });
  return status === 200 ? body.memories : [];
};
const write = async (body: Record<string, unknown>) => {
  const answer = await call(gateway, '/v1/memory', { key: acme, body });
  expect(answer.status).toBe(202);
  return String(answer.body.memory_id);
};
const exported = async (query = '') => {
  const response = await fetch(`${gateway.url}/v1/memory/export${query}`, { headers: { 'x-api-key': acme } });
  const lines = (await response.text()).trim().split('\n');
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
};
interface Job {
  readonly status: string;
  readonly result?: { readonly url?: string };
}
const done = async (jobId: unknown) => {
  const { body } = await waitFor(
    () => call<Job>(gateway, `/v1/jobs/${jobId}`, { key: acme }),
    ({ status, body: job }) => status === 200 && ['done', 'failed'].includes(job.status),
    { label: 'the job', timeoutMs: 40_000, intervalMs: 200 },
  );
  expect(body).toMatchObject({ status: 'done' });
  return body;
};
const linesOf = async (job: Job) => {
  const link = new URL(JSON.stringify(job.result).match(/"(http[^"]+)"/)?.[1] ?? '');
  const response = await fetch(`${jobWorker.url}${link.pathname}${link.search}`);
  expect(response.status).toBe(200);
  const lines = (await response.text()).trim().split('\n');
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
};

it('finds a memory that was written by hand, its next version, and not one that was forgotten', async () => {
  const id = await write({ text: 'Ada prefers answers in French.', namespace: 'people' });
  const first = await waitFor(
    () => search('French'),
    (found) => found.length === 1,
    { label: 'the memory', timeoutMs: 30_000, intervalMs: 200 },
  );
  expect(first[0]).toMatchObject({ memory_id: id, text: 'Ada prefers answers in French.' });
  expect(await search('French', globex)).toEqual([]);
  await write({ text: 'Ada prefers answers in Italian.', namespace: 'people', memory_id: id });
  const second = await waitFor(
    () => search('Italian'),
    (found) => found.length === 1,
    { label: 'the next version', timeoutMs: 30_000, intervalMs: 200 },
  );
  expect(second[0]).toMatchObject({ memory_id: id, version: 2 });
  expect(await exported('?namespace=people')).toMatchObject([{ memory_id: id }, { end: true, count: 1 }]);
  expect((await call(gateway, `/v1/memory/${id}`, { key: acme, method: 'DELETE' })).status).toBe(202);
  await waitFor(
    () => search('Italian'),
    (found) => found.length === 0,
    { label: 'it is forgotten', timeoutMs: 30_000, intervalMs: 200 },
  );
  expect(await exported('?namespace=people')).toEqual([{ end: true, count: 0 }]);
}, 120_000);

it('exports many memories whole, as a stream and as a job', async () => {
  const ids: string[] = [];
  for (let i = 0; i < 20; i += 1) {
    const some = Array.from({ length: 30 }, (_, n) =>
      write({ text: `number ${i}.${n} ${'x'.repeat(3_000)}`, namespace: 'many' }),
    );
    ids.push(...(await Promise.all(some)));
  }
  const all = await waitFor(
    () => exported('?namespace=many'),
    (lines) => lines.length === ids.length + 1,
    { label: 'all of them', timeoutMs: 60_000, intervalMs: 500 },
  );
  expect(all.at(-1)).toEqual({ end: true, count: ids.length });
  expect(all.slice(0, -1).map(({ memory_id }) => memory_id)).toEqual([...ids].sort());
  const wanted = await call(gateway, '/v1/memory/exports', { key: acme, body: { namespaces: ['many'] } });
  const lines = await linesOf(await done(wanted.body.job_id));
  expect(lines.map(({ memory_id }) => memory_id).filter((id) => id !== undefined)).toEqual([...ids].sort());
}, 180_000);

it('exports a session as a job, and tells of it by a notification', async () => {
  const { session_id: sessionId, turn_id: turnId } = (await post(gateway, acme, { message: 'hello' })).body;
  await fixture.publish('acme', sessionId, turnEvents(turnId, ['hi']));
  const headers = { 'idempotency-key': newId() };
  const path = `/v1/sessions/${sessionId}/export`;
  const wanted = await call(gateway, path, { key: acme, method: 'POST', headers });
  expect(wanted.status).toBe(202);
  const lines = await linesOf(await done(wanted.body.job_id));
  expect(lines.filter(({ kind }) => kind !== undefined)).toMatchObject([
    { kind: 'message', message: 'hello' },
    { kind: 'event', event: 'turn.started' },
    { kind: 'event', event: 'assistant.final', data: { text: 'hi' } },
  ]);
  const foreign = await call(gateway, `/v1/jobs/${wanted.body.job_id}`, { key: globex });
  expect(foreign.status).toBe(404);
  const told = await waitFor(
    () => call<{ notifications: { kind: string }[] }>(gateway, '/v1/notifications', { key: acme }),
    ({ body }) => body.notifications.length > 0,
    { label: 'a notification', timeoutMs: 30_000 },
  );
  expect(told.body.notifications[0]?.kind).toMatch(/^export\./);
}, 120_000);
