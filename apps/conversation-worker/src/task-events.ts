import type { DelegationUpdatedShown } from '@signalbox/contracts/conversation-outbound';
import {
  delegationTasksSchema,
  type TaskCancelRequested,
  type TaskSubmitted,
} from '@signalbox/contracts/delegation-tasks';
import type { TaskUpdated } from '@signalbox/contracts/delegation-updates';
import { idKey } from '@signalbox/contracts/keys';
import type { OutgoingMessage } from '@signalbox/messaging/outgoing';
import { outbound, type TurnIdentity } from './turn-events.ts';

const priority = 5;

export type NewTask = Pick<
  TaskSubmitted,
  'task_id' | 'target' | 'input' | 'depth' | 'parent_task_id' | 'deadline_at' | 'submitted_at'
>;

/** The task itself: its updates come to this service, and name the step that waits for them. */
export function taskSubmitted(turn: TurnIdentity, step: number, task: NewTask): OutgoingMessage {
  const origin = { session_id: turn.sessionId, turn_id: turn.turnId, step };
  const value: TaskSubmitted = { ...task, priority, origin };
  return taskRecord(turn, 'task.submitted', task.task_id, value);
}

/** Nobody waits for the task any more. */
export function taskCancelRequested(turn: TurnIdentity, taskId: string, reason: string): OutgoingMessage {
  const value: TaskCancelRequested = { task_id: taskId, reason, requested_at: new Date().toISOString() };
  return taskRecord(turn, 'task.cancel_requested', taskId, value);
}

function taskRecord(turn: TurnIdentity, eventType: string, taskId: string, value: object): OutgoingMessage {
  return {
    ...outbound(turn, eventType, value),
    topic: 'delegation.tasks',
    key: idKey(turn.tenant, taskId),
    schema: delegationTasksSchema,
    correlationId: taskId,
    replyTo: 'conversation-worker',
  };
}

/** What a client is shown of an update, through the outbox: its turn is parked. */
export function delegationUpdated(
  turn: TurnIdentity,
  attempt: number,
  step: number,
  update: Pick<TaskUpdated, 'task_id' | 'target' | 'status' | 'progress' | 'result' | 'error'>,
): OutgoingMessage {
  const { task_id, target, status, progress, result, error } = update;
  const value: DelegationUpdatedShown = {
    ...{ turn_id: turn.turnId, attempt, step, task_id, target, status },
    ...(progress === undefined ? {} : { progress }),
    ...(result === undefined ? {} : { result }),
    ...(error === undefined ? {} : { error }),
  };
  return outbound(turn, 'delegation.updated', value);
}
