import { type TaskStatus, TaskUpdated } from '@signalbox/contracts/delegation-updates';
import { newId } from '@signalbox/contracts/ids';
import { describe, expect, it } from 'vitest';
import { advance, isEnded } from './task-state.ts';

const statuses = TaskUpdated.properties.status.anyOf.map((each) => each.const);
const update = (status: TaskStatus, seq: number, more: Partial<TaskUpdated> = {}): TaskUpdated => ({
  task_id: newId(),
  seq,
  status,
  attempt: 1,
  target: { handler: 'test' },
  depth: 0,
  priority: 5,
  submitted_at: '2026-01-01T00:00:00.000Z',
  updated_at: '2026-01-01T00:00:00.000Z',
  ...more,
});

/** Every pair of statuses: what the state machine lets pass when the seq rises. */
const forward: Readonly<Record<TaskStatus, readonly TaskStatus[]>> = {
  queued: statuses,
  running: statuses.filter((status) => status !== 'queued'),
  input_required: statuses.filter((status) => status !== 'queued'),
  completed: [],
  failed: [],
  cancelled: [],
  expired: [],
};

describe.each(statuses)('a task that is %s', (from) => {
  it.each(statuses)('takes %s only forward', (to) => {
    const outcome = forward[from].includes(to) ? 'applied' : 'backwards';
    expect(advance({ status: from, seq: 4 }, update(to, 5)).outcome).toBe(outcome);
  });

  it.each(statuses)('is left alone by a %s that is late or comes again', (to) => {
    expect(advance({ status: from, seq: 4 }, update(to, 4))).toEqual({ outcome: 'late' });
    expect(advance({ status: from, seq: 4 }, update(to, 1))).toEqual({ outcome: 'late' });
  });

  it('may be skipped ahead: updates between were put aside', () => {
    expect(advance({ status: 'queued', seq: 0 }, update(from, 9))).toMatchObject({
      outcome: 'applied',
      state: { status: from, seq: 9 },
    });
  });
});

it('keeps what belongs to the status and nothing else', () => {
  const said = { progress: 'half', result: { n: 1 }, error: { error_code: 'X', message: 'y' } };
  const taken = (status: TaskStatus) => advance({ status: 'queued', seq: 0 }, update(status, 1, said));
  expect(taken('running')).toEqual({
    outcome: 'applied',
    state: { status: 'running', seq: 1, progress: 'half' },
  });
  expect(taken('completed')).toEqual({
    outcome: 'applied',
    state: { status: 'completed', seq: 1, result: { n: 1 } },
  });
  expect(taken('expired')).toEqual({
    outcome: 'applied',
    state: { status: 'expired', seq: 1, error: said.error },
  });
});

it('knows the statuses that end a task', () => {
  expect(statuses.filter(isEnded)).toEqual(['completed', 'failed', 'cancelled', 'expired']);
});
