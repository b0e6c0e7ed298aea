import type { TaskStatus } from '@signalbox/contracts/delegation-updates';
import { readValue } from '@signalbox/contracts/validate';
import { whyNotKeepable } from '@signalbox/messaging/keepable-value';
import { expect, it } from 'vitest';
import type { TaskPayload } from './task-payload.ts';
import { hasEnded, mayFollow, type TaskState, updateOf } from './task-state.ts';

const statuses: TaskStatus[] = [
  'queued',
  'running',
  'input_required',
  'completed',
  'failed',
  'cancelled',
  'expired',
];

it('goes forward only: nothing leads out of an end, nothing back to queued, and a result comes from running', () => {
  for (const from of statuses) {
    expect(mayFollow(from, 'queued'), from).toBe(false);
    if (hasEnded(from)) for (const to of statuses) expect(mayFollow(from, to), `${from} ${to}`).toBe(false);
    else for (const to of ['failed', 'cancelled', 'expired'] as const) expect(mayFollow(from, to)).toBe(true);
    expect(mayFollow(from, 'completed')).toBe(from === 'running');
    expect(mayFollow(from, 'input_required')).toBe(from === 'running');
  }
  expect(statuses.filter((to) => mayFollow('input_required', to))).toEqual([
    'running',
    'failed',
    'cancelled',
    'expired',
  ]);
});

const payload: TaskPayload = {
  event_id: '01997d5e-0000-7000-8000-000000000001',
  task: {
    task_id: '01997d5e-0000-7000-8000-000000000002',
    target: { handler: 'echo' },
    input: {},
    priority: 5,
    depth: 0,
    submitted_at: '2026-01-01T00:00:00.000Z',
  },
};

it.each<TaskState>([
  { status: 'queued' },
  { status: 'running' },
  { status: 'running', progress: '😀'.repeat(5_000) },
  { status: 'input_required', prompt: 'x'.repeat(10_000) },
  { status: 'completed', result: { a: 1 } },
  { status: 'failed', error: { error_code: 'x'.repeat(500), message: '' } },
  { status: 'expired', error: { error_code: '', message: 'late' } },
  { status: 'failed', error: { error_code: 'X', message: `\u0000\ud800${'y'.repeat(2_000_000)}` } },
])('is told within its schema: %j', (state) => {
  const value = updateOf(payload, state, { seq: 3, attempt: 2, now: new Date() });
  expect(readValue('delegation.updates', 'task.updated', value)).toEqual(value);
  const text = JSON.stringify(value);
  expect(whyNotKeepable(JSON.parse(text), Buffer.from(text))).toBeUndefined();
  expect(text.length).toBeLessThan(20_000);
  expect(value).toMatchObject({ seq: 3, attempt: 2, status: state.status });
});
