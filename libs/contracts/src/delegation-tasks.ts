import { type Static, Type } from 'typebox';
import { Count, Id, Instant, Name, OpenObject, Step } from './fields.ts';

/** Where a task may come from besides a caller: the step of a turn that delegated it. */
export const TaskOrigin = Type.Object({ session_id: Id, turn_id: Id, step: Step });

/** A turn of a persona, or code that is registered under a name. */
export const TaskTarget = Type.Union([Type.Object({ persona_id: Name }), Type.Object({ handler: Name })]);
export type TaskTarget = Static<typeof TaskTarget>;

/**
 * A task to carry out, once for its id. `input` is what the target is given: `{message}` for a persona. A task past
 * `deadline_at` ends as expired. `depth` is 0 for a caller's task, one more for each that was delegated by another.
 */
export const TaskSubmitted = Type.Object({
  task_id: Id,
  target: TaskTarget,
  input: OpenObject,
  priority: Type.Integer({ minimum: 0, maximum: 9, description: '9 is the most urgent' }),
  depth: Count,
  parent_task_id: Type.Optional(Id),
  origin: Type.Optional(TaskOrigin),
  deadline_at: Type.Optional(Instant),
  callback_url: Type.Optional(Type.String({ maxLength: 2_048 })),
  metadata: Type.Optional(OpenObject),
  submitted_at: Instant,
});
export type TaskSubmitted = Static<typeof TaskSubmitted>;

/** Ends the task and those that it has delegated. One that has ended is left alone. */
export const TaskCancelRequested = Type.Object({
  task_id: Id,
  reason: Type.Optional(Type.String({ maxLength: 500 })),
  requested_at: Instant,
});
export type TaskCancelRequested = Static<typeof TaskCancelRequested>;

/** What a task in input_required waits for. `input_id` makes a repeat known. */
export const TaskInputProvided = Type.Object({
  task_id: Id,
  input_id: Id,
  input: OpenObject,
  provided_at: Instant,
});
export type TaskInputProvided = Static<typeof TaskInputProvided>;

export const delegationTasksSchema = 'delegation.tasks.v1';
export const delegationTasksEvents = {
  'task.submitted': TaskSubmitted,
  'task.cancel_requested': TaskCancelRequested,
  'task.input_provided': TaskInputProvided,
} as const;
