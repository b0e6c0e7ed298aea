import { newId } from '@signalbox/contracts/ids';
import type { ToolRequested } from '@signalbox/contracts/tool-requests';
import {
  type ToolOutcomeReported,
  type ToolProgress,
  type ToolStarted,
  toolResultsSchema,
} from '@signalbox/contracts/tool-results';
import type { OutgoingMessage } from '@signalbox/messaging/messaging';
import type { CallPayload } from './call-payload.ts';

type Answer = Pick<CallPayload, 'request' | 'record_key' | 'reply_to' | 'request_id'>;

/** The value of the answer that ends a call. */
export function outcomeValue(
  request: ToolRequested,
  outcome: Omit<ToolOutcomeReported, 'call_id' | 'turn_id' | 'session_id' | 'step' | 'tool'>,
): ToolOutcomeReported {
  return { ...callOf(request), ...outcome };
}

/** The call runs; told for calls that take a while, so that somebody who waits sees that it was not lost. */
export function startedMessage(tenant: string, answer: Answer, startedAt: Date): OutgoingMessage {
  const value: ToolStarted = { ...callOf(answer.request), started_at: startedAt.toISOString() };
  return message(tenant, answer, 'tool.started', value);
}

export function outcomeMessage(tenant: string, answer: Answer, value: ToolOutcomeReported): OutgoingMessage {
  return message(tenant, answer, 'tool.outcome', value);
}

function callOf({ call_id, turn_id, session_id, step, tool }: ToolRequested) {
  return { call_id, turn_id, session_id, step, tool };
}

/**
 * Each answer has an event id of its own, a repeated one too: who asks again (a later attempt of a turn) would drop an
 * answer that its inbox knows.
 */
function message(
  tenant: string,
  { request, record_key, reply_to, request_id }: Answer,
  eventType: string,
  value: ToolStarted | ToolProgress | ToolOutcomeReported,
): OutgoingMessage {
  return {
    topic: 'tool.results',
    key: record_key,
    tenant,
    eventType,
    schema: toolResultsSchema,
    eventId: newId(),
    sessionId: request.session_id,
    correlationId: request.call_id,
    replyTo: reply_to,
    requestId: request_id,
    value,
  };
}
