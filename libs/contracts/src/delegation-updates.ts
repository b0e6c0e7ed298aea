import { type Static, Type } from 'typebox';
import { TaskOrigin, TaskTarget } from './delegation-tasks.ts';
import { Count, Id, Instant, Name, OpenObject } from './fields.ts';

/** queued → running → (input_required → running)* → one of the last four, which nothing leads out of. */
export const TaskStatus = Type.Union([
  Type.Literal('queued'),
  Type.Literal('running'),
  Type.Literal('input_required'),
  Type.Literal('completed'),
  Type.Literal('failed'),
  Type.Literal('cancelled'),
  Type.Literal('expired'),
]);
export type TaskStatus = Static<typeof TaskStatus>;

/** The statuses that a task ends with. */
export const endedTaskStatuses: readonly TaskStatus[] = ['completed', 'failed', 'cancelled', 'expired'];

/**
 * A task as it is now. `seq` rises by one with each update of the task, from 1: one that is not above the last one seen is
 * a repeat or late, and changes nothing.
 */
export const TaskUpdated = Type.Object({
  task_id: Id,
  seq: Type.Integer({ minimum: 1 }),
  status: TaskStatus,
  attempt: Count,
  target: TaskTarget,
  depth: Count,
  priority: Count,
  parent_task_id: Type.Optional(Id),
  origin: Type.Optional(TaskOrigin),
  deadline_at: Type.Optional(Instant),
  /** What has been reached, in words, while it runs; what is asked for, while it waits for input. */
  progress: Type.Optional(Type.String({ maxLength: 4_096 })),
  /** Of a completed task. */
  result: Type.Optional(OpenObject),
  /** Of one that failed, expired or was cancelled. */
  error: Type.Optional(Type.Object({ error_code: Name, message: Type.String() })),
  submitted_at: Instant,
  updated_at: Instant,
});
export type TaskUpdated = Static<typeof TaskUpdated>;

/** How the telling of a callback_url goes. */
export const WebhookUpdated = Type.Object({
  task_id: Id,
  webhook_id: Id,
  status: Type.Union([Type.Literal('delivered'), Type.Literal('failed')]),
  attempts: Count,
  last_error: Type.Optional(Type.String({ maxLength: 1_000 })),
  updated_at: Instant,
});
export type WebhookUpdated = Static<typeof WebhookUpdated>;

export const delegationUpdatesSchema = 'delegation.updates.v1';
export const delegationUpdatesEvents = {
  'task.updated': TaskUpdated,
  'webhook.updated': WebhookUpdated,
} as const;
