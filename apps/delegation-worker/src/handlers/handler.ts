import type { TaskTarget } from '@signalbox/contracts/delegation-tasks';
import type { EndedState } from '../task-state.ts';

/** What goes in and out of handlers and steps: a JSON object, stored as it is. */
export type Values = Readonly<Record<string, unknown>>;

export interface StepContext {
  /**
   * The same at every try of this step, and of no other. A step whose process dies before its outcome is stored runs again;
   * with this key, what it calls can tell.
   */
  readonly idempotencyKey: string;
  /** Aborts when the task is cancelled, expires, or is no longer this process's. */
  readonly signal: AbortSignal;
  readonly attempt: number;
}

/**
 * What a handler does by steps. A handler may be run again from its begin, in another process: after a failure, a
 * takeover, or each time something that it waited for has come. A step that has an outcome is then not run but answered from the stored one.
 *
 * So a handler does everything with an effect, a clock or chance within `run`, takes its steps one after the other, and
 * in the same order each time.
 */
export interface Steps {
  /** Runs `work` once for the name; what it throws is a failure of the task, which is tried again. */
  run(name: string, work: (context: StepContext) => Promise<Values>): Promise<Values>;
  /** Makes the task input_required and waits for an answer, for as long as its deadline lets it. */
  input(prompt: string): Promise<Values>;
  /** Submits a child task and waits for its end, whatever that is. */
  delegate(target: TaskTarget, input: Values): Promise<EndedState>;
  /** Tells how far it has come, in words; not again while a later run goes through steps that have their outcome. */
  progress(text: string): Promise<void>;
  readonly signal: AbortSignal;
}

/**
 * Code that tasks can be sent to by its name. Its answer is the task's result. What it throws is tried again with jitter,
 * unless it is a fault that says it is not retryable.
 */
export interface Handler {
  readonly name: string;
  run(input: Values, steps: Steps): Promise<Values>;
}
