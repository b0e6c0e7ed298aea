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

/** What names a call, in a request as in a cancel. */
type CallNames = Pick<ToolRequested, 'call_id' | 'turn_id' | 'session_id' | 'step' | 'tool'>;
type Answer = Pick<CallPayload, 'request' | 'record_key' | 'reply_to' | 'request_id'>;

/** The value of the answer that ends a call. */
export function outcomeValue(
  request: CallNames,
  outcome: Omit<ToolOutcomeReported, 'call_id' | 'turn_id' | 'session_id' | 'step' | 'tool'>,
): ToolOutcomeReported {
  return { ...callOf(request), ...outcome };
}

/** Of a call that nobody waits for any more. `ranMs`: for how long it ran before its process was ended; it may have begun. */
export function cancelledOutcome(call: CallNames, ranMs: number | undefined): ToolOutcomeReported {
  return outcomeValue(call, {
    outcome: 'cancelled',
    output: '',
    truncated: false,
    duration_ms: Math.round(ranMs ?? 0),
    error_code: 'TOOL_CANCELLED',
    message:
      ranMs === undefined
        ? 'cancelled before it began'
        : 'cancelled while it ran; whether it took effect is not known',
  });
}

/** The call runs; told for calls that take a while, so that somebody who waits sees that it was not lost. */
export function startedMessage(tenant: string, answer: Answer, startedAt: Date): OutgoingMessage {
  const value: ToolStarted = { ...callOf(answer.request), started_at: startedAt.toISOString() };
  return message(tenant, answer, 'tool.started', value);
}

export function outcomeMessage(tenant: string, answer: Answer, value: ToolOutcomeReported): OutgoingMessage {
  return message(tenant, answer, 'tool.outcome', value);
}

function callOf({ call_id, turn_id, session_id, step, tool }: CallNames): CallNames {
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
