import { newId } from '@signalbox/contracts/ids';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Harness, lines, noteFile, startHarness } from '../test/delegation-harness.ts';

let harness: Harness;
let service: SpawnedService;

beforeAll(async () => {
  harness = await startHarness();
  // One slot for tasks: what is submitted behind a slow one waits.
  service = await harness.start({ DELEGATION_MAX_CONCURRENT: '1' });
});
afterAll(async () => {
  await service?.[Symbol.asyncDispose]();
  await harness?.close();
});

/** Occupies the slot until it is cancelled. */
async function occupy(): Promise<string> {
  const id = await harness.submit({ handler: 'slow' });
  await harness.reaches(id, 'running');
  return id;
}

describe('a cancel', () => {
  test('of a task that waits for a slot ends it at once, and it never runs', async () => {
    const slow = await occupy();
    const file = noteFile();
    const id = await harness.submit({ handler: 'slow', input: { file } });
    expect(await harness.reaches(id, 'queued')).toMatchObject({ seq: 1, attempt: 0 });
    await harness.cancel(id, 'changed my mind');
    expect(await harness.reaches(id, 'cancelled')).toMatchObject({
      seq: 2,
      attempt: 0,
      error: { error_code: 'CANCELLED', message: 'changed my mind' },
    });
    await harness.cancel(slow);
    await harness.reaches(slow, 'cancelled');
    const echo = await harness.submit({});
    await harness.reaches(echo, 'completed');
    expect(lines(file)).toEqual([]);
  });

  test('of one that runs ends it, also when its code does not listen', async () => {
    for (const deaf of [false, true]) {
      const id = await harness.submit({ handler: 'slow', input: { deaf } });
      await waitFor(
        () => harness.updates(id),
        (found) => found.some(({ progress }) => progress === 'it runs'),
      );
      const began = performance.now();
      await harness.cancel(id);
      await harness.reaches(id, 'cancelled');
      expect(performance.now() - began).toBeLessThan(2_000);
    }
  });

  test('that another replica took reaches the holder with its next heartbeat', async () => {
    const id = await occupy();
    const began = performance.now();
    const sql = `SELECT was FROM delegation_worker.work_cancel('acme', $1, NULL, '{"why": "cancelled", "reason": "elsewhere"}')`;
    expect(await harness.database.query(sql, [id])).toEqual([{ was: 'running' }]);
    expect((await harness.reaches(id, 'cancelled')).error?.message).toBe('elsewhere');
    expect(performance.now() - began).toBeLessThan(3_000);
  });

  test('of one that waits for input ends it, and the input that comes then changes nothing', async () => {
    const id = await harness.submit({ handler: 'ask', input: { prompt: 'well?' } });
    await harness.reaches(id, 'input_required');
    await harness.cancel(id);
    await harness.reaches(id, 'cancelled');
    await harness.input(id, { text: 'late' });
    await service.log(
      'task.result_not_applied',
      ({ task_id, verdict }) => task_id === id && verdict === 'late',
    );
    expect(harness.statuses(id)).toEqual(['running', 'input_required', 'cancelled']);
  });

  test('of one that waits does not wait for a slot, and a deadline neither', async () => {
    const asking = await harness.submit({ handler: 'ask', input: { prompt: 'well?' }, priority: 0 });
    const expiring = await harness.submit({ handler: 'ask', input: { prompt: 'well?' }, deadlineMs: 1_500 });
    await Promise.all([asking, expiring].map((id) => harness.reaches(id, 'input_required')));
    const slow = await occupy();
    await harness.cancel(asking);
    await Promise.all([harness.reaches(asking, 'cancelled'), harness.reaches(expiring, 'expired')]);
    expect(harness.statuses(slow)).not.toContain('cancelled');
    await harness.cancel(slow);
    await harness.reaches(slow, 'cancelled');
  });

  test('ends the children that a task waits for, two levels down', async () => {
    const id = await harness.submit({ handler: 'nest', input: { levels: 2, last: 'catching' } });
    const descendants = await waitFor(
      () => family(id),
      (found) => found.length === 2,
      { label: 'two levels of children' },
    );
    await waitFor(
      () => harness.statuses(descendants[1] ?? ''),
      (found) => found.includes('input_required'),
      { label: 'the last one waits' },
    );
    await harness.cancel(id);
    await harness.reaches(id, 'cancelled');
    for (const child of descendants) {
      expect((await harness.reaches(child, 'cancelled')).error?.message).toBe('its task was cancelled');
    }
  });

  test('of a task that has ended, or of none, changes nothing', async () => {
    const id = await harness.submit({});
    await harness.reaches(id, 'completed');
    await harness.cancel(id);
    const nobody = newId();
    await harness.cancel(nobody);
    await service.log('task.end_asked', ({ task_id, was }) => task_id === id && was === 'nothing');
    await service.log('task.end_asked', ({ task_id, was }) => task_id === nobody && was === 'nothing');
    expect(harness.statuses(id)).toEqual(['running', 'completed']);
  });
});

/** The chain of children of a task, as the updates show it. */
function family(id: string): string[] {
  const parents = new Map(
    harness.recordsOf('delegation.updates').flatMap(({ value, keyId }) => {
      const parent = JSON.parse(JSON.stringify(value)).parent_task_id;
      return typeof parent === 'string' ? [[parent, keyId] as const] : [];
    }),
  );
  const found: string[] = [];
  for (let at = parents.get(id); at !== undefined; at = parents.get(at)) found.push(at);
  return found;
}

describe('a deadline', () => {
  test('ends what waits for a slot, what runs, and what waits for an answer', async () => {
    const running = await harness.submit({ handler: 'slow', deadlineMs: 1_500 });
    await harness.reaches(running, 'running');
    const queued = await harness.submit({ handler: 'echo', deadlineMs: 400 });
    expect(await harness.reaches(queued, 'expired')).toMatchObject({
      seq: 2,
      error: { error_code: 'TASK_EXPIRED' },
    });
    const ended = await harness.reaches(running, 'expired');
    expect(ended.attempt).toBe(1);
    expect(Date.parse(ended.updated_at) - Date.parse(ended.deadline_at ?? '')).toBeLessThan(2_500);

    const asking = await harness.submit({ handler: 'ask', input: { prompt: 'soon?' }, deadlineMs: 700 });
    await harness.reaches(asking, 'input_required');
    await harness.reaches(asking, 'expired');
    expect(harness.statuses(asking)).toEqual(['running', 'input_required', 'expired']);
  });

  test('that has passed by the time a task is read ends it without a run', async () => {
    const file = noteFile();
    const id = await harness.submit({ handler: 'slow', input: { file }, deadlineMs: -1 });
    await harness.reaches(id, 'expired');
    expect(lines(file)).toEqual([]);
  });
});

test('the urgent tasks of a tenant run first', async () => {
  const slow = await occupy();
  const ids = new Map<string, number>();
  for (const priority of [1, 5, 9, 3]) ids.set(await harness.submit({ priority }), priority);
  await Promise.all([...ids.keys()].map((id) => harness.reaches(id, 'queued')));
  await harness.cancel(slow);
  await Promise.all([...ids.keys()].map((id) => harness.reaches(id, 'completed')));
  const times = [...ids].map(([id, priority]) => ({
    priority,
    at: Date.parse(harness.updates(id).find(({ status }) => status === 'completed')?.updated_at ?? ''),
  }));
  times.sort((a, b) => a.at - b.at || b.priority - a.priority);
  expect(times.map(({ priority }) => priority)).toEqual([9, 5, 3, 1]);
});
