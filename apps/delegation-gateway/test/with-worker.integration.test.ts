import { call } from '@signalbox/testkit/api-call';
import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import type { SseEvent } from '@signalbox/testkit/sse';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type DelegationFixture, delegationFixture, follow, reached, submit } from './delegation-fixture.ts';

/** The two services of tasks together: what a caller sees of work that is really done. */

let fixture: DelegationFixture;
let gateway: SpawnedService;
let worker: SpawnedService;
let key: string;

beforeAll(async () => {
  fixture = await delegationFixture();
  await fixture.topics.create('conversation.inbound', 'turn.results', 'ui.notifications');
  [gateway, worker] = await Promise.all([fixture.start(), spawnService('delegation-worker', fixture.env)]);
  await worker.ready();
  key = fixture.keys.acme;
});
afterAll(async () => {
  await worker?.[Symbol.asyncDispose]();
  await fixture?.close();
});

const statuses = (events: readonly SseEvent[]) => [
  ...new Set(events.map(({ data }) => (data as { status: string }).status)),
];
const at = (taskId: string, tail = '') => `/v1/delegation/task/${taskId}${tail}`;

it('a task asks, is answered and completes, all of it on its stream', async () => {
  const { body } = await submit(gateway, key, { payload: { handler: 'ask', input: { prompt: 'Name?' } } });
  const stream = await follow(gateway, key, body.task_id);
  await stream.event(({ data }) => (data as { status: string }).status === 'input_required', 20_000);
  expect((await reached(gateway, key, body.task_id, 'input_required')).body.progress).toBe('Name?');
  const answered = await call(gateway, at(body.task_id, '/callback'), {
    key,
    body: { input: { name: 'Ada' } },
  });
  expect(answered.status).toBe(202);
  await stream.event(({ data }) => (data as { status: string }).status === 'completed', 20_000);
  expect(statuses(stream.events).at(-1)).toBe('completed');
  expect((await call(gateway, at(body.task_id), { key })).body).toMatchObject({
    status: 'completed',
    result: { answer: { name: 'Ada' } },
  });
  await stream.close();
});

it('a task that delegates shows its children, each a task of its own', async () => {
  const child = (n: number) => ({ target: { handler: 'echo' }, input: { n } });
  const { body } = await submit(gateway, key, {
    payload: { handler: 'sequence', input: { tasks: [child(1), child(2)] } },
  });
  await waitFor(
    () => call(gateway, at(body.task_id), { key }),
    ({ body: task }) => task.status === 'completed',
    { timeoutMs: 20_000, label: 'the parent' },
  );
  const { body: page } = await call<{ tasks: Record<string, unknown>[] }>(gateway, '/v1/delegation/tasks', {
    key,
  });
  const children = page.tasks.filter((each) => each.parent_task_id === body.task_id);
  expect(children).toHaveLength(2);
  for (const each of children) expect(each).toMatchObject({ depth: 1, target: { handler: 'echo' } });
});

it('a cancel ends a task that waits, a deadline one that nobody answers, and an unknown handler fails', async () => {
  const ask = { handler: 'ask', input: { prompt: 'Anybody?' } };
  const [cancelled, expired, unknown] = await Promise.all([
    submit(gateway, key, { payload: ask }),
    submit(gateway, key, { payload: ask, deadline_ms: 1_000 }),
    submit(gateway, key, { payload: { handler: 'nobody', input: {} } }),
  ]);
  await waitFor(
    () => call(gateway, at(cancelled.body.task_id), { key }),
    ({ body }) => body.status === 'input_required',
    { timeoutMs: 20_000 },
  );
  const asked = await call(gateway, at(cancelled.body.task_id, '/cancel'), {
    key,
    body: { reason: 'enough' },
  });
  expect(asked.status).toBe(202);
  for (const [{ body }, status] of [
    [cancelled, 'cancelled'],
    [expired, 'expired'],
    [unknown, 'failed'],
  ] as const) {
    const { body: task } = await reached(gateway, key, body.task_id, status);
    expect(task).toMatchObject({ error: { error_code: expect.any(String) }, ended_at: expect.any(String) });
  }
  expect(await gateway.metric('delegation_gateway_updates_total', { result: 'backwards' })).toBeUndefined();
});
