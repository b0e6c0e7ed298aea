import type { TaskStatus, TaskUpdated } from '@signalbox/contracts/delegation-updates';

/**
 * A task as it is known here. It only moves forward, by the updates of delegation-worker:
 *
 * - `queued`: submitted, or taken in by the worker. Nobody runs it yet.
 * - `running`: somebody does; it may say how far it has come.
 * - `input_required`: it waits for input, and says what for. With it, it is `running` again; that is the one way back, and
 *   it may be gone many times.
 * - `completed`, with its result; `failed`, `cancelled` or `expired`, with an error. Nothing leads out of these four.
 *
 * `seq` is that of the last update that moved it, 0 before the first.
 */
export type TaskState =
  | { readonly status: 'queued'; readonly seq: number }
  | { readonly status: 'running'; readonly seq: number; readonly progress?: string }
  | { readonly status: 'input_required'; readonly seq: number; readonly progress?: string }
  | { readonly status: 'completed'; readonly seq: number; readonly result: Record<string, unknown> }
  | { readonly status: 'failed' | 'cancelled' | 'expired'; readonly seq: number; readonly error?: TaskError };

export type TaskError = NonNullable<TaskUpdated['error']>;

/** What an update makes of a task: `late` says that its seq was not above the last one, `backwards` that it leads back. */
export type Advance =
  | { readonly outcome: 'applied'; readonly state: TaskState }
  | { readonly outcome: 'late' | 'backwards' };

/** Nothing leads from a status to one of a lower rank; of those of the highest nothing leads to any. */
const rank: Readonly<Record<TaskStatus, number>> = {
  queued: 0,
  running: 1,
  input_required: 1,
  completed: 2,
  failed: 2,
  cancelled: 2,
  expired: 2,
};

export function isEnded(status: TaskStatus): boolean {
  return rank[status] === 2;
}

/** Total and pure. `seq` decides first: a repeat of the update that ended a task is late, not backwards. */
export function advance(state: Pick<TaskState, 'status' | 'seq'>, update: TaskUpdated): Advance {
  if (update.seq <= state.seq) return { outcome: 'late' };
  if (isEnded(state.status) || rank[update.status] < rank[state.status]) return { outcome: 'backwards' };
  return { outcome: 'applied', state: stateOf(update) };
}

function stateOf(update: TaskUpdated): TaskState {
  const { status, seq, progress, result, error } = update;
  switch (status) {
    case 'queued':
      return { status, seq };
    case 'running':
    case 'input_required':
      return { status, seq, ...(progress === undefined ? {} : { progress }) };
    case 'completed':
      return { status, seq, result: result ?? {} };
    case 'failed':
    case 'cancelled':
    case 'expired':
      return { status, seq, ...(error === undefined ? {} : { error }) };
  }
}
