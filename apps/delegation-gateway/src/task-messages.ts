import {
  delegationTasksSchema,
  type TaskCancelRequested,
  type TaskInputProvided,
  type TaskSubmitted,
} from '@signalbox/contracts/delegation-tasks';
import { idKey } from '@signalbox/contracts/keys';
import type { OutgoingMessage } from '@signalbox/messaging/messaging';
import type { TaskRef } from './task-event.ts';

/** Who asks for updates of the tasks that were submitted here. It reads those of all others too. */
export const replyTo = 'delegation-gateway';

export interface MessageContext {
  /** Made before the first try of the request. */
  readonly eventId: string;
  readonly requestId: string;
  readonly traceparent: string | undefined;
}

type TaskMessage =
  | { readonly eventType: 'task.submitted'; readonly value: TaskSubmitted }
  | { readonly eventType: 'task.cancel_requested'; readonly value: TaskCancelRequested }
  | { readonly eventType: 'task.input_provided'; readonly value: TaskInputProvided };

/** A record of delegation.tasks. All of a task have one key, so what is said of it comes in the order of the answers. */
export function taskMessage(
  { tenant, taskId }: TaskRef,
  message: TaskMessage,
  context: MessageContext,
): OutgoingMessage {
  return {
    topic: 'delegation.tasks',
    key: idKey(tenant, taskId),
    tenant,
    schema: delegationTasksSchema,
    correlationId: taskId,
    replyTo,
    ...message,
    ...context,
  };
}
