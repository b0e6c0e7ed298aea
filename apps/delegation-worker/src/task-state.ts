import type { TaskStatus, TaskUpdated } from '@signalbox/contracts/delegation-updates';
import { endedTaskStatuses } from '@signalbox/contracts/delegation-updates';
import type { TaskPayload } from './task-payload.ts';

/** Why a task did not complete: a code of the catalog or of its target, and words. */
export interface TaskError {
  readonly error_code: string;
  readonly message: string;
}

/**
 * Where a task stands.
 *
 * It is **queued** when its submission has been read and no process had a slot for it, and **running** from the first
 * claim on: while code of a handler runs, while a turn of a persona or a child task that it waits for runs, between
 * tries, and after a takeover (with a higher attempt). It is **input_required** while it waits for somebody's answer and
 * goes back to running when that has come: the only way there is, and no way back to queued. It ends once: **completed**
 * with a result, only ever from running; **failed**, **cancelled** (somebody asked for it) or **expired** (its deadline passed) with
 * an error, from wherever it stands. Nothing leads out of these four: a submission, a cancel, an input or a result that
 * comes then is answered from what is stored, or kept apart, and changes nothing.
 *
 *   queued → running ⇄ input_required
 *      │        │ └──────────┐ │
 *      │        ▼            ▼ ▼
 *      │    completed     failed | cancelled | expired
 *      └─────────────────────▲
 */
export type TaskState =
  | { readonly status: 'queued' }
  | { readonly status: 'running'; readonly progress?: string }
  | { readonly status: 'input_required'; readonly prompt: string }
  | EndedState;

export type EndedState =
  | { readonly status: 'completed'; readonly result: Readonly<Record<string, unknown>> }
  | { readonly status: 'failed' | 'cancelled' | 'expired'; readonly error: TaskError };

const next: Readonly<Record<TaskStatus, readonly TaskStatus[]>> = {
  queued: ['running', 'failed', 'cancelled', 'expired'],
  running: ['running', 'input_required', 'completed', 'failed', 'cancelled', 'expired'],
  input_required: ['running', 'failed', 'cancelled', 'expired'],
  completed: [],
  failed: [],
  cancelled: [],
  expired: [],
};

/** Whether a task may go from one status to another. The database asks the same once more (migration 0091). */
export function mayFollow(from: TaskStatus, to: TaskStatus): boolean {
  return next[from].includes(to);
}

export function hasEnded(status: TaskStatus): boolean {
  return endedTaskStatuses.includes(status);
}

/** Characters of what is told on the way. */
const maxProgress = 4_096;

/** The value of the task's next update. */
export function updateOf(
  { task }: TaskPayload,
  state: TaskState,
  at: { readonly seq: number; readonly attempt: number; readonly now: Date },
): TaskUpdated {
  const { parent_task_id, origin, deadline_at } = task;
  return {
    task_id: task.task_id,
    seq: at.seq,
    status: state.status,
    attempt: at.attempt,
    target: task.target,
    depth: task.depth,
    priority: task.priority,
    ...(parent_task_id === undefined ? {} : { parent_task_id }),
    ...(origin === undefined ? {} : { origin }),
    ...(deadline_at === undefined ? {} : { deadline_at }),
    ...told(state),
    submitted_at: task.submitted_at,
    updated_at: at.now.toISOString(),
  };
}

function told(state: TaskState): Pick<TaskUpdated, 'progress' | 'result' | 'error'> {
  switch (state.status) {
    case 'queued':
      return {};
    case 'running':
      return state.progress === undefined ? {} : { progress: cut(state.progress) };
    case 'input_required':
      return { progress: cut(state.prompt) };
    case 'completed':
      return { result: state.result };
    default:
      return {
        error: {
          error_code: keepable(state.error.error_code).slice(0, 128) || 'INTERNAL_ERROR',
          message: cut(state.error.message),
        },
      };
  }
}

/** By code points, so that none is cut in two; a code point has two units at most. */
function cut(text: string): string {
  const kept = keepable(text);
  return kept.length <= maxProgress
    ? kept
    : Array.from(kept)
        .slice(0, maxProgress / 2)
        .join('');
}

/** Words of handlers and of what they call: Postgres keeps neither NUL nor a lone surrogate. */
function keepable(text: string): string {
  return text.toWellFormed().replaceAll('\u0000', '\uFFFD');
}
