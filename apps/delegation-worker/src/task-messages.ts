import { createHash } from 'node:crypto';
import { conversationInboundSchema, type MessagePosted } from '@signalbox/contracts/conversation-inbound';
import {
  delegationTasksSchema,
  type TaskSubmitted,
  type TaskTarget,
} from '@signalbox/contracts/delegation-tasks';
import { delegationUpdatesSchema, type TaskUpdated } from '@signalbox/contracts/delegation-updates';
import { newId } from '@signalbox/contracts/ids';
import { idKey, sessionKey } from '@signalbox/contracts/keys';
import { hashId } from '@signalbox/contracts/memory-ids';
import type { OutgoingMessage } from '@signalbox/messaging/messaging';
import type { WorkRow } from '@signalbox/work/worker';
import { serviceName } from './service-name.ts';
import type { TaskPayload } from './task-payload.ts';
import { hasEnded } from './task-state.ts';

/** An id that is the same at every try: what a task sends and waits for is made once, however often it is run. */
function fixedId(...parts: readonly string[]): string {
  return hashId(createHash('sha256').update(parts.join(' '), 'utf8').digest('hex'));
}

/**
 * The session, turn and event of the turn that carries out a task of a persona. Two tenants may give two tasks one id; their
 * turns have ids of their own all the same, as turns that callers post.
 */
export function turnIds(tenant: string, taskId: string) {
  return {
    sessionId: fixedId('session', tenant, taskId),
    turnId: fixedId('turn', tenant, taskId),
    eventId: fixedId('message', tenant, taskId),
  };
}

export const childId = (taskId: string, step: string): string => fixedId('child', taskId, step);

/** Tells what became of a task, to everybody and to who submitted it. */
export function updateMessage(
  tenant: string,
  { reply_to, request_id, task }: Pick<TaskPayload, 'reply_to' | 'request_id' | 'task'>,
  value: TaskUpdated,
): OutgoingMessage {
  return {
    topic: 'delegation.updates',
    key: idKey(tenant, task.task_id),
    tenant,
    eventType: 'task.updated',
    schema: delegationUpdatesSchema,
    eventId: newId(),
    correlationId: task.task_id,
    replyTo: reply_to,
    requestId: request_id,
    value,
  };
}

/** What is stored of a webhook. `body` is signed and sent as it is, at every try. */
export interface WebhookPayload {
  readonly url: string;
  readonly body: string;
  readonly task_id: string;
  readonly reply_to?: string | undefined;
}

export const webhookFormats = [1] as const;

/** The webhooks of an update: one when there is a callback_url and the task ended or waits for somebody. */
export function webhooksOf(
  tenant: string,
  { task, reply_to }: TaskPayload,
  value: TaskUpdated,
  traceparent: string | undefined,
): readonly WorkRow[] {
  const { callback_url: url } = task;
  if (url === undefined || !(hasEnded(value.status) || value.status === 'input_required')) return [];
  const payload: WebhookPayload = {
    url,
    body: JSON.stringify({
      type: 'task.updated',
      timestamp: value.updated_at,
      data: { ...value, ...(task.metadata === undefined ? {} : { metadata: task.metadata }) },
    }),
    task_id: task.task_id,
    reply_to,
  };
  return [
    {
      tenant,
      // The same for the same update, so that it is entered once.
      id: fixedId('webhook', tenant, task.task_id, String(value.seq)),
      key: task.task_id,
      format: webhookFormats[0],
      payload,
      ...(traceparent === undefined ? {} : { traceparent }),
    },
  ];
}

/** Asks conversation-worker for the turn that carries out a task; its end comes back by reply_to. */
export function turnMessage(
  tenant: string,
  payload: TaskPayload,
  personaId: string,
  text: string,
): OutgoingMessage {
  const { task, request_id } = payload;
  const { sessionId, turnId, eventId } = turnIds(tenant, task.task_id);
  const value: MessagePosted = {
    session_id: sessionId,
    turn_id: turnId,
    event_id: eventId,
    persona_id: personaId,
    message: text,
    delegation: { task_id: task.task_id, depth: task.depth },
    accepted_at: new Date().toISOString(),
  };
  return {
    ...inbound(tenant, sessionId, task.task_id, request_id),
    eventType: 'message.posted',
    eventId,
    value,
  };
}

/** Ends that turn, wherever it stands. */
export function cancelTurnMessage(
  tenant: string,
  { task, request_id }: TaskPayload,
  reason: string,
): OutgoingMessage {
  const { sessionId, turnId } = turnIds(tenant, task.task_id);
  const eventId = fixedId('cancel', tenant, task.task_id);
  return {
    ...inbound(tenant, sessionId, task.task_id, request_id),
    eventType: 'session.action',
    eventId,
    value: {
      session_id: sessionId,
      event_id: eventId,
      action: 'cancel',
      turn_id: turnId,
      reason,
      requested_at: new Date().toISOString(),
    },
  };
}

function inbound(tenant: string, sessionId: string, taskId: string, requestId: string | undefined) {
  return {
    topic: 'conversation.inbound' as const,
    key: sessionKey(tenant, sessionId),
    tenant,
    schema: conversationInboundSchema,
    sessionId,
    correlationId: taskId,
    replyTo: serviceName,
    requestId,
  };
}

/** Submits a child task: one deeper, with its parent's deadline and priority. */
export function childMessage(
  tenant: string,
  { task, request_id }: TaskPayload,
  id: string,
  target: TaskTarget,
  input: Readonly<Record<string, unknown>>,
): OutgoingMessage {
  const value: TaskSubmitted = {
    task_id: id,
    target,
    input,
    priority: task.priority,
    depth: task.depth + 1,
    parent_task_id: task.task_id,
    ...(task.deadline_at === undefined ? {} : { deadline_at: task.deadline_at }),
    submitted_at: new Date().toISOString(),
  };
  return tasks(tenant, id, request_id, 'task.submitted', value, serviceName);
}

export function cancelChildMessage(
  tenant: string,
  { request_id }: TaskPayload,
  id: string,
  reason: string,
): OutgoingMessage {
  const value = { task_id: id, reason, requested_at: new Date().toISOString() };
  return tasks(tenant, id, request_id, 'task.cancel_requested', value, undefined);
}

function tasks(
  tenant: string,
  id: string,
  requestId: string | undefined,
  eventType: string,
  value: object,
  replyTo: string | undefined,
): OutgoingMessage {
  return {
    topic: 'delegation.tasks',
    key: idKey(tenant, id),
    tenant,
    eventType,
    schema: delegationTasksSchema,
    eventId: newId(),
    correlationId: id,
    replyTo,
    requestId,
    value,
  };
}
