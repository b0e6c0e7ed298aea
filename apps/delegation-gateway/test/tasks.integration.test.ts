import { newId } from '@signalbox/contracts/ids';
import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type DelegationFixture,
  delegationFixture,
  handlerTask,
  reached,
  submit,
} from './delegation-fixture.ts';

let fixture: DelegationFixture;
let first: SpawnedService;
let second: SpawnedService;
let acme: string;
let globex: string;

beforeAll(async () => {
  fixture = await delegationFixture();
  [first, second] = await Promise.all([fixture.start(), fixture.start()]);
  ({ acme, globex } = fixture.keys);
});
afterAll(() => fixture?.close());

const read = (taskId: string, key = acme) => call(first, `/v1/delegation/task/${taskId}`, { key });
const cancel = (taskId: string, body?: unknown, key = acme) =>
  call(first, `/v1/delegation/task/${taskId}/cancel`, { key, body, method: 'POST' });
const answer = (taskId: string, input: unknown, headers: Record<string, string> = {}, service = first) =>
  call(service, `/v1/delegation/task/${taskId}/callback`, { key: acme, body: { input }, headers });

describe('a task', () => {
  it('is answered 202 with its id and Location, and reaches the worker with all that was said', async () => {
    const { status, headers, body } = await submit(first, acme, {
      payload: { persona_id: 'assistant', message: 'What is 6 * 7?', priority: 8 },
      callback_url: 'https://example.com/done',
      deadline_ms: 60_000,
      metadata: { ticket: 7 },
    });
    expect(status).toBe(202);
    expect(body.status).toBe('queued');
    expect(headers.get('location')).toBe(`/v1/delegation/task/${body.task_id}`);
    const [record] = await fixture.records('acme', body.task_id, 1);
    expect(record).toMatchObject({
      type: 'task.submitted',
      replyTo: 'delegation-gateway',
      value: {
        task_id: body.task_id,
        target: { persona_id: 'assistant' },
        input: { message: 'What is 6 * 7?' },
        priority: 8,
        depth: 0,
        callback_url: 'https://example.com/done',
        metadata: { ticket: 7 },
      },
    });
    const { submitted_at: submittedAt, deadline_at: deadlineAt } = record?.value ?? {};
    expect(Date.parse(String(deadlineAt)) - Date.parse(String(submittedAt))).toBe(60_000);
    expect((await read(body.task_id)).body).toMatchObject({
      task_id: body.task_id,
      status: 'queued',
      seq: 0,
      target: { persona_id: 'assistant' },
      priority: 8,
      callback_url: 'https://example.com/done',
      metadata: { ticket: 7 },
      deadline_at: deadlineAt,
    });
  });

  it('goes as its updates tell, to its result and what became of its callback', async () => {
    const { body } = await submit(first, acme);
    await fixture.tell('acme', body.task_id, [
      { seq: 1, status: 'queued' },
      { seq: 2, status: 'running', progress: 'half' },
    ]);
    expect((await reached(second, acme, body.task_id, 'running')).body).toMatchObject({ progress: 'half' });
    await fixture.tell('acme', body.task_id, [
      { seq: 3, status: 'completed', attempt: 2, result: { answer: 42, z: 1, a: 2 } },
      { webhook: { status: 'failed', attempts: 8, last_error: 'HTTP 500' } },
    ]);
    await waitFor(
      () => read(body.task_id),
      ({ body: task }) => task.webhook !== undefined,
      { label: 'the webhook' },
    );
    const { body: task } = await read(body.task_id);
    expect(task).toMatchObject({
      status: 'completed',
      seq: 3,
      attempt: 2,
      result: { answer: 42, z: 1, a: 2 },
      webhook: { status: 'failed', attempts: 8, last_error: 'HTTP 500' },
      ended_at: expect.any(String),
    });
    expect(task).not.toHaveProperty('progress');
  });

  it('that a conversation has delegated is known by its updates', async () => {
    const taskId = newId();
    const origin = { session_id: newId(), turn_id: newId(), step: 3 };
    await fixture.tell('acme', taskId, [
      { seq: 1, status: 'queued', origin, depth: 2, target: { persona_id: 'researcher' } },
      { seq: 2, status: 'failed', error: { error_code: 'DEPTH', message: 'too deep' } },
    ]);
    const { body } = await reached(first, acme, taskId, 'failed');
    expect(body).toMatchObject({
      origin,
      depth: 2,
      target: { persona_id: 'researcher' },
      error: { error_code: 'DEPTH', message: 'too deep' },
    });
    // Its id is taken: nobody submits another task under it.
    expect((await submit(first, acme, { ...handlerTask, task_id: taskId })).status).toBe(409);
  });

  it('is the task of its tenant alone', async () => {
    const { body } = await submit(first, acme);
    await fixture.tell('globex', body.task_id, [{ seq: 1, status: 'failed' }]);
    await reached(first, globex, body.task_id, 'failed');
    expect((await read(body.task_id)).body.status).toBe('queued');

    const mine = (await submit(first, acme)).body.task_id;
    const foreign = [
      await read(mine, globex),
      await cancel(mine, {}, globex),
      await call(first, `/v1/delegation/task/${mine}/callback`, { key: globex, body: { input: {} } }),
      await call(first, `/v1/delegation/task/${mine}/events`, { key: globex }),
    ];
    for (const { status, body: problem } of foreign) {
      expect(status).toBe(404);
      expect(problem).toMatchObject({ error_code: 'NOT_FOUND', message: 'there is no such task' });
    }
    const listed = await call<{ tasks: { task_id: string }[] }>(first, '/v1/delegation/tasks?limit=200', {
      key: globex,
    });
    expect(listed.body.tasks.map(({ task_id: id }) => id)).not.toContain(mine);
    // The same id is free for another tenant.
    expect((await submit(first, globex, { ...handlerTask, task_id: mine })).status).toBe(202);
  });
});

describe('the list', () => {
  it('is newest first, page by page, and by status', async () => {
    const key = globex;
    const made: string[] = [];
    for (let n = 0; n < 7; n += 1) made.unshift((await submit(first, key)).body.task_id);
    await fixture.tell('globex', made[2] ?? '', [{ seq: 1, status: 'running' }]);
    await reached(first, key, made[2] ?? '', 'running');
    const page = async (query: string) =>
      (
        await call<{ tasks: { task_id: string }[]; next_before: string | null }>(
          second,
          `/v1/delegation/tasks?${query}`,
          { key },
        )
      ).body;
    const seen: string[] = [];
    let before = '';
    for (;;) {
      const { tasks, next_before: next } = await page(`limit=3${before}`);
      seen.push(...tasks.map(({ task_id: id }) => id));
      if (next === null) break;
      before = `&before=${next}`;
    }
    // Two of one millisecond stand by their ids.
    expect([...seen.slice(0, 7)].sort()).toEqual([...made].sort());
    expect(new Set(seen).size).toBe(seen.length);
    expect((await page('status=running')).tasks.map(({ task_id: id }) => id)).toEqual([made[2]]);
    const bad = await call(first, '/v1/delegation/tasks?before=x', { key });
    expect([bad.status, bad.body.error_code]).toEqual([400, 'MALFORMED_REQUEST']);
    expect((await call(first, '/v1/delegation/tasks?status=nope', { key })).status).toBe(422);
  });
});

describe('a repeat', () => {
  it('of the same task_id and body is the same task, with the status that it has now', async () => {
    const body = { ...handlerTask, task_id: newId() };
    const once = await submit(first, acme, body);
    expect(once.headers.get('idempotency-replayed')).toBeNull();
    await fixture.tell('acme', body.task_id, [{ seq: 1, status: 'completed', result: {} }]);
    await reached(first, acme, body.task_id, 'completed');
    const again = await submit(second, acme, body);
    expect([again.status, again.body]).toEqual([202, { task_id: body.task_id, status: 'completed' }]);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    const other = await submit(second, acme, { ...body, deadline_ms: 1000 });
    expect([other.status, other.body.error_code]).toEqual([409, 'CONFLICT']);
    expect(await fixture.records('acme', body.task_id, 1)).toHaveLength(1);
  });

  it('of the same Idempotency-Key gets the first answer; another body is refused', async () => {
    const key = newId();
    const once = await submit(first, acme, handlerTask, { 'idempotency-key': key });
    const again = await submit(second, acme, handlerTask, { 'idempotency-key': key });
    expect(again.body).toEqual(once.body);
    expect(again.headers.get('location')).toBe(once.headers.get('location'));
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    const other = await submit(first, acme, { ...handlerTask, deadline_ms: 500 }, { 'idempotency-key': key });
    expect([other.status, other.body.error_code]).toEqual([422, 'IDEMPOTENCY_KEY_REUSED']);
  });

  it.each([
    ['task_id', () => ({ body: { ...handlerTask, task_id: newId() }, headers: {} })],
    ['Idempotency-Key', () => ({ body: handlerTask, headers: { 'idempotency-key': newId() } })],
  ])('a hundred at once over two replicas by %s are one task', async (_, request) => {
    const { body, headers } = request();
    const answers = await Promise.all(
      Array.from({ length: 100 }, (__, n) => submit(n % 2 === 0 ? first : second, acme, body, headers)),
    );
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([202]));
    const ids = new Set(answers.map((each) => each.body.task_id));
    expect(ids.size).toBe(1);
    const [taskId = ''] = ids;
    expect(answers.filter((each) => each.headers.get('idempotency-replayed') === null)).toHaveLength(1);
    expect(await fixture.records('acme', taskId, 1)).toHaveLength(1);
  });

  it('two bodies under one task_id at once: one is the task, the other 409', async () => {
    const taskId = newId();
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, n) =>
        submit(n % 2 === 0 ? first : second, acme, {
          payload: { handler: 'test', input: { n: n % 2 } },
          task_id: taskId,
        }),
      ),
    );
    const taken = answers.filter(({ status }) => status === 202);
    expect(taken).toHaveLength(10);
    expect(answers.filter(({ status }) => status === 409)).toHaveLength(10);
    expect(await fixture.records('acme', taskId, 1)).toHaveLength(1);
  });
});

describe('a cancel', () => {
  it('comes behind its task; of one that has ended nothing is sent', async () => {
    const { body } = await submit(first, acme);
    const asked = await cancel(body.task_id, { reason: 'no longer needed' });
    expect([asked.status, asked.body]).toEqual([202, { task_id: body.task_id, status: 'queued' }]);
    expect((await cancel(body.task_id)).status).toBe(202);
    const sent = await fixture.records('acme', body.task_id, 3);
    expect(sent.map(({ type }) => type)).toEqual([
      'task.submitted',
      'task.cancel_requested',
      'task.cancel_requested',
    ]);
    expect(sent[1]?.value).toMatchObject({ task_id: body.task_id, reason: 'no longer needed' });
    await fixture.tell('acme', body.task_id, [
      { seq: 1, status: 'cancelled', error: { error_code: 'CANCELLED', message: 'no longer needed' } },
    ]);
    await reached(first, acme, body.task_id, 'cancelled');
    const late = await cancel(body.task_id, {});
    expect([late.status, late.body]).toEqual([200, { task_id: body.task_id, status: 'cancelled' }]);
    expect(await fixture.records('acme', body.task_id, 3)).toHaveLength(3);
  });
});

describe('input', () => {
  it('is taken once for each asking, and nowhere else', async () => {
    const { body } = await submit(first, acme);
    const taskId = body.task_id;
    const early = await answer(taskId, { yes: true });
    expect([early.status, early.body.error_code]).toEqual([409, 'CONFLICT']);

    await fixture.tell('acme', taskId, [{ seq: 1, status: 'input_required', progress: 'May I?' }]);
    await reached(first, acme, taskId, 'input_required');
    const key = { 'idempotency-key': newId() };
    const answers = await Promise.all(
      Array.from({ length: 10 }, (_, n) =>
        answer(taskId, { yes: true }, n < 5 ? key : {}, n % 2 === 0 ? first : second),
      ),
    );
    const ids = new Set(answers.map((each) => each.body.input_id));
    expect([ids.size, new Set(answers.map(({ status }) => status))]).toEqual([1, new Set([202])]);
    expect((await answer(taskId, { yes: false })).status).toBe(409);

    await fixture.tell('acme', taskId, [
      { seq: 2, status: 'running' },
      { seq: 3, status: 'input_required', progress: 'And this?' },
    ]);
    await waitFor(
      () => read(taskId),
      ({ body: task }) => task.seq === 3,
    );
    const next = await answer(taskId, { yes: false });
    expect(next.status).toBe(202);
    const sent = await fixture.records('acme', taskId, 3);
    expect(sent.map(({ type, value }) => [type, value.input, value.input_id])).toEqual([
      ['task.submitted', { n: 1 }, undefined],
      ['task.input_provided', { yes: true }, [...ids][0]],
      ['task.input_provided', { yes: false }, next.body.input_id],
    ]);
    await fixture.tell('acme', taskId, [{ seq: 4, status: 'completed', result: {} }]);
    await reached(first, acme, taskId, 'completed');
    expect((await answer(taskId, { yes: true })).status).toBe(409);
  });
});

it('a tenant with too many open tasks is told to come back; repeats and other tenants are not', async () => {
  const service = await fixture.start({ TENANT_MAX_OPEN_TASKS: '4' });
  const { globex: key } = fixture.keys;
  const open = await call<{ tasks: unknown[] }>(service, '/v1/delegation/tasks?status=queued&limit=200', {
    key,
  });
  expect(open.body.tasks.length).toBeGreaterThan(4);
  await waitFor(
    () => submit(service, key),
    ({ status }) => status === 429,
    { label: 'the count' },
  );
  const refused = await submit(service, key, { ...handlerTask, task_id: newId() });
  expect([refused.status, refused.body.error_code]).toEqual([429, 'TENANT_BUSY']);
  expect(refused.headers.get('retry-after')).toBe('1');
  expect(refused.headers.get('ratelimit-limit')).toBe('4');

  const body = { ...handlerTask, task_id: newId() };
  expect((await submit(first, key, body)).status).toBe(202);
  expect((await submit(service, key, body)).status).toBe(202);

  // It counted all tasks by status when it started.
  const gauge = (status: string) => service.metric('delegation_tasks', { status });
  await waitFor(
    () => gauge('queued'),
    (value) => value !== undefined && value > 4,
    { label: 'the gauge' },
  );
  expect(await gauge('completed')).toBeGreaterThan(0);
  expect(await gauge('expired')).toBe(0);
  await service.stop();
});

it('documents its routes', async () => {
  const { body } = await call<{ openapi: string; paths: Record<string, unknown> }>(first, '/openapi.json');
  expect(body.openapi).toMatch(/^3\.1/);
  expect(Object.keys(body.paths)).toEqual(
    expect.arrayContaining([
      '/v1/delegation/task',
      '/v1/delegation/task/{id}',
      '/v1/delegation/task/{id}/events',
      '/v1/delegation/task/{id}/cancel',
      '/v1/delegation/task/{id}/callback',
      '/v1/delegation/tasks',
    ]),
  );
  expect((await fetch(`${first.url}/docs/`)).status).toBe(200);
});
