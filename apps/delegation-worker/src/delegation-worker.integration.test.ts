import { newId } from '@signalbox/contracts/ids';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Harness, lines, noteFile, startHarness } from '../test/delegation-harness.ts';

let harness: Harness;
let service: SpawnedService;
/** Submitted before the service was there: one that was cancelled at once, one that came twice. */
let early: { cancelled: string; twice: string };

beforeAll(async () => {
  harness = await startHarness();
  const cancelled = await harness.submit({ handler: 'slow' });
  await harness.cancel(cancelled);
  await harness.input(cancelled, { text: 'too late' });
  const twice = await harness.submit({ input: { a: 2 } });
  await harness.submit({ task_id: twice });
  early = { cancelled, twice };
  service = await harness.start({ DELEGATION_MAX_RETRIES: '2', DELEGATION_MAX_OPEN_CHILDREN: '4' });
});
afterAll(async () => {
  await service?.[Symbol.asyncDispose]();
  await harness?.close();
});

test('what lay in the topic is taken in its order: a cancel behind its submission, a repeat as one', async () => {
  await harness.reaches(early.cancelled, 'cancelled');
  await harness.reaches(early.twice, 'completed');
  // It may have begun before it was told of its end.
  expect([...new Set(harness.statuses(early.cancelled))]).toEqual(['running', 'cancelled']);
  expect(harness.statuses(early.twice)).toEqual(['running', 'completed']);
  // The repeat was answered with what was told last.
  await waitFor(
    () => harness.updates(early.twice).map(({ seq }) => seq),
    (told) => told.length > new Set(told).size,
  );
});

describe('a handler', () => {
  test('is run, and told of under its key, in order, to who asked', async () => {
    const id = await harness.submit({ input: { a: 1 }, replyTo: 'somebody' });
    expect(await harness.reaches(id, 'completed')).toMatchObject({
      task_id: id,
      attempt: 1,
      target: { handler: 'echo' },
      result: { a: 1 },
    });
    expect(harness.statuses(id)).toEqual(['running', 'completed']);
    const numbers = [...new Set(harness.updates(id).map(({ seq }) => seq))];
    expect(numbers).toEqual(numbers.map((_, at) => at + 1));
    const [record] = harness.recordsOf('delegation.updates').filter(({ keyId }) => keyId === id);
    expect(record?.key).toBe(`acme:${id}`);
    expect(record?.headers).toMatchObject({
      reply_to: 'somebody',
      correlation_id: id,
      ce_source: 'delegation-worker',
    });
  });

  test('of no known name, or too deep, or with what it cannot use, fails and says why', async () => {
    const ids = await Promise.all([
      harness.submit({ handler: 'nothing' }),
      harness.submit({ depth: 5 }),
      harness.submit({ depth: 4 }),
      harness.submit({ handler: 'ask' }),
      harness.submit({ persona: 'helper', input: { text: 'not a message' } }),
    ]);
    const ends = await Promise.all(
      ids.map(async (id, at) => {
        const { error } = await harness.reaches(id, at === 2 ? 'completed' : 'failed');
        return error?.error_code;
      }),
    );
    expect(ends).toEqual([
      'HANDLER_UNKNOWN',
      'DEPTH_LIMIT',
      undefined,
      'VALIDATION_ERROR',
      'VALIDATION_ERROR',
    ]);
  });

  test('that fails is tried again, with the steps that it has done; then it fails for good', async () => {
    const [good, bad, final] = [noteFile(), noteFile(), noteFile()];
    const ids = await Promise.all([
      harness.submit({ handler: 'flaky', input: { file: good, times: 2 } }),
      harness.submit({ handler: 'flaky', input: { file: bad, times: 9 } }),
      harness.submit({ handler: 'flaky', input: { file: final, times: 9, code: 'final' } }),
    ]);
    expect(await harness.reaches(ids[0] ?? '', 'completed')).toMatchObject({
      attempt: 3,
      result: { tries: 3 },
    });
    expect(await harness.reaches(ids[1] ?? '', 'failed')).toMatchObject({ attempt: 3 });
    expect(await harness.reaches(ids[2] ?? '', 'failed')).toMatchObject({
      attempt: 1,
      error: { error_code: 'VALIDATION_ERROR', message: 'of no\uFFFDuse' },
    });
    for (const file of [good, bad, final])
      expect(lines(file).filter((line) => line.startsWith('prepare'))).toHaveLength(1);
    expect(harness.statuses(ids[0] ?? '')).toEqual(['running', 'running', 'running', 'completed']);
  });

  test('that delegates goes on with the result of each child, one after the other', async () => {
    const id = await harness.submit({
      handler: 'sequence',
      input: {
        tasks: [
          { target: { handler: 'echo' }, input: { first: 1 } },
          { target: { handler: 'echo' }, input: { second: 2 } },
        ],
      },
    });
    const { result } = await harness.reaches(id, 'completed');
    expect(result).toEqual({ results: [{ first: 1 }, { second: 2, previous: { first: 1 } }] });
    expect(harness.updates(id).flatMap(({ progress }) => progress ?? [])).toEqual([
      'task 1 of 2',
      'task 2 of 2',
    ]);
    const children = harness
      .recordsOf('delegation.updates')
      .filter(({ value }) => JSON.stringify(value).includes(`"parent_task_id":"${id}"`));
    expect(new Set(children.map(({ headers }) => headers.reply_to))).toEqual(new Set(['delegation-worker']));
    expect(new Set(children.map(({ keyId }) => keyId)).size).toBe(2);
  });

  test('whose child fails can tell, and what it throws then is its own end', async () => {
    const id = await harness.submit({
      handler: 'sequence',
      input: { tasks: [{ target: { handler: 'nothing' } }, { target: { handler: 'echo' } }] },
    });
    expect((await harness.reaches(id, 'failed')).error).toEqual({
      error_code: 'CHILD_FAILED',
      message: 'task 1 failed: no handler has the name nothing',
    });
  });
});

test('tasks that tasks delegate are bounded by tenant, callers’ own are not', async () => {
  const child = { handler: 'ask', input: { prompt: 'well?' }, depth: 1, parent_task_id: newId() };
  const open: string[] = [];
  for (let count = 0; count < 4; count += 1) open.push(await harness.submit(child));
  await Promise.all(open.map((id) => harness.reaches(id, 'input_required')));
  const tooMany = await harness.reaches(await harness.submit(child), 'failed');
  expect(tooMany.error?.error_code).toBe('TENANT_BUSY');
  await harness.reaches(await harness.submit({}), 'completed');
  for (const id of open) await harness.input(id, { text: 'so' });
  await Promise.all(open.map((id) => harness.reaches(id, 'completed')));
  await harness.reaches(await harness.submit({ ...child, handler: 'echo' }), 'completed');
});

test('a submission that comes again is answered with the last update, to who asks now, and nothing runs', async () => {
  const file = noteFile();
  const id = await harness.submit({ handler: 'three_steps', input: { file, ms: 0 } });
  const ended = await harness.reaches(id, 'completed');
  await harness.submit({ task_id: id, replyTo: 'another' });
  await waitFor(
    () => harness.updates(id).filter(({ status }) => status === 'completed'),
    (found) => found.length === 2,
  );
  expect(harness.updates(id).at(-1)).toEqual(ended);
  const [last] = harness
    .recordsOf('delegation.updates')
    .filter(({ keyId }) => keyId === id)
    .slice(-1);
  expect(last?.headers.reply_to).toBe('another');
  expect(lines(file)).toHaveLength(3);
});

describe('input', () => {
  test('is asked for, waited for without a slot, taken once for its id, and given to the handler', async () => {
    const id = await harness.submit({ handler: 'catching' });
    expect(await harness.reaches(id, 'input_required')).toMatchObject({ progress: 'first?' });
    const sql = 'SELECT state, attempt FROM delegation_worker.runs WHERE id = $1';
    expect(await harness.database.query(sql, [id])).toEqual([{ state: 'parked', attempt: 1 }]);
    const inputId = newId();
    await harness.input(id, { text: 'one' }, inputId);
    await waitFor(
      () => harness.statuses(id),
      (found) => found.filter((status) => status === 'input_required').length === 2,
    );
    await harness.input(id, { text: 'one' }, inputId); // a repeat answers nothing that was asked since
    await harness.input(id, { text: 'two' });
    expect((await harness.reaches(id, 'completed')).result).toEqual({
      answers: [{ text: 'one' }, { text: 'two' }],
    });
    expect(harness.statuses(id)).toEqual([
      'running',
      'input_required',
      'running',
      'input_required',
      'running',
      'completed',
    ]);
  });

  test('that nobody asked for changes nothing', async () => {
    const id = await harness.submit({ handler: 'echo' });
    await harness.reaches(id, 'completed');
    await harness.input(id, { text: 'late' });
    await service.log('task.result_not_applied', ({ task_id }) => task_id === id);
    expect(harness.statuses(id)).toEqual(['running', 'completed']);
  });
});

test('old rows go when job-worker asks for it, a piece at a time', async () => {
  const id = await harness.submit({});
  await harness.reaches(id, 'completed');
  await harness.database.query(
    `ALTER TABLE delegation_worker.tasks DISABLE TRIGGER go_forward;
     UPDATE delegation_worker.tasks SET ended_at = ended_at - interval '9 days' WHERE task_id = '${id}';
     UPDATE delegation_worker.runs SET finished_at = finished_at - interval '9 days' WHERE id = '${id}';
     ALTER TABLE delegation_worker.tasks ENABLE TRIGGER go_forward;`,
  );
  for (const task of ['tasks', 'work_rows']) {
    expect(await harness.upkeep(task), task).toMatchObject({ done: 1, more: false });
    expect(await harness.upkeep(task), task).toMatchObject({ done: 0, more: false });
  }
  expect(await harness.upkeep('stale_lanes')).toMatchObject({ more: false });
  await expect(harness.upkeep('nothing')).rejects.toMatchObject({ code: 'NOT_FOUND' });
});
