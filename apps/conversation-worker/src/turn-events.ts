import type { MultitaskStrategy } from '@signalbox/contracts/conversation-inbound';
import {
  type AssistantError,
  type AssistantFinal,
  conversationOutboundSchema,
  type EndReason,
  type MemoryRecalledShown,
  type ToolResultShown,
  type ToolStartedShown,
  type TurnCancelled,
  type TurnQueued,
  type TurnRejected,
} from '@signalbox/contracts/conversation-outbound';
import { headerNames } from '@signalbox/contracts/headers';
import { newId } from '@signalbox/contracts/ids';
import { sessionKey } from '@signalbox/contracts/keys';
import {
  type ToolCancelRequested,
  type ToolRequested,
  toolRequestsSchema,
} from '@signalbox/contracts/tool-requests';
import type { Fault } from '@signalbox/faults/fault';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import type { OutgoingMessage } from '@signalbox/messaging/outgoing';
import type { StreamRecord } from './answer-stream.ts';
import { countCodePoints } from './code-points.ts';
import type { TurnCancel } from './intake-store.ts';
import type { Recall } from './recall.ts';
import type { ToolInput, ToolOutcomeStored } from './turn-journal.ts';

/** Whose events these are; the same over all attempts of a turn. */
export interface TurnIdentity {
  readonly tenant: string;
  readonly sessionId: string;
  readonly turnId: string;
  readonly requestId: string | undefined;
  /** Of the record that brought the message: the whole turn is one trace. */
  readonly traceparent: string | undefined;
}

/** The turn of a message that a record brings. */
export function turnOf(record: IntakeRecord, turnId: string): TurnIdentity {
  const { tenant, sessionId, traceparent, headers } = record;
  return { tenant, sessionId, turnId, requestId: headers[headerNames.requestId], traceparent };
}

export interface CallToRequest {
  readonly step: number;
  readonly callId: string;
  readonly input: ToolInput;
}

/** An event for the session's stream, under a new event id. */
export function outbound(
  turn: TurnIdentity,
  eventType: string,
  value: object,
  eventId = newId(),
): OutgoingMessage {
  return {
    topic: 'conversation.outbound',
    key: sessionKey(turn.tenant, turn.sessionId),
    tenant: turn.tenant,
    sessionId: turn.sessionId,
    eventType,
    schema: conversationOutboundSchema,
    eventId,
    value,
    ...(turn.requestId === undefined ? {} : { requestId: turn.requestId }),
    ...(turn.traceparent === undefined ? {} : { traceparent: turn.traceparent }),
  };
}

/** An event that its holder sends straight to the broker, as a message: with an id and all headers. */
export function directEvent(turn: TurnIdentity, record: StreamRecord): OutgoingMessage {
  return outbound(turn, record.eventType, record.value);
}

export function turnQueued(
  turn: TurnIdentity,
  position: number,
  strategy: MultitaskStrategy,
): OutgoingMessage {
  const value: TurnQueued = { turn_id: turn.turnId, attempt: 1, position, strategy };
  return outbound(turn, 'turn.queued', value);
}

export function turnRejected(turn: TurnIdentity, busyTurnId: string): OutgoingMessage {
  const value: TurnRejected = {
    ...{ turn_id: turn.turnId, attempt: 1 },
    ...{ reason: 'session_busy', busy_turn_id: busyTurnId },
  };
  return outbound(turn, 'turn.rejected', value);
}

/** `text`: what stands of the answer, equal to the deltas of the attempt. */
export function turnCancelled(
  turn: TurnIdentity,
  attempt: number,
  cancel: TurnCancel,
  text: string,
): OutgoingMessage {
  const value: TurnCancelled = {
    ...{ turn_id: turn.turnId, attempt, cause: cancel.cause, by: cancel.by },
    ...(cancel.reason === undefined ? {} : { reason: cancel.reason }),
    ...{ text, length: countCodePoints(text) },
  };
  return outbound(turn, 'turn.cancelled', value);
}

export function toolStarted(turnId: string, attempt: number, call: CallToRequest): StreamRecord {
  const value: ToolStartedShown = {
    turn_id: turnId,
    attempt,
    step: call.step,
    call_id: call.callId,
    tool: call.input.tool,
    arguments: { ...call.input.arguments },
  };
  return { eventType: 'tool.started', value: { ...value } };
}

/** What the turn remembers, or that it goes on without. */
export function memoryRecalled(turnId: string, attempt: number, recall: Recall): StreamRecord {
  const value: MemoryRecalledShown = {
    ...{ turn_id: turnId, attempt, outcome: recall.outcome, duration_ms: recall.duration_ms },
    memories: recall.memories.map(({ occurred_at: _, ...note }) => note),
  };
  return { eventType: 'memory.recalled', value };
}

export interface ShownCall {
  readonly step: number;
  readonly callId: string;
  readonly tool: string;
}

export function toolResultShown(
  turnId: string,
  attempt: number,
  call: ShownCall,
  outcome: ToolOutcomeStored,
): StreamRecord {
  const value: Omit<ToolResultShown, 'outcome'> & { outcome: string } = {
    turn_id: turnId,
    attempt,
    step: call.step,
    call_id: call.callId,
    tool: call.tool,
    outcome: outcome.outcome,
    output: outcome.output,
    truncated: outcome.truncated,
    duration_ms: outcome.duration_ms,
  };
  return { eventType: 'tool.result', value };
}

/** The same as a message for the outbox: of a turn that is parked. */
export function toolResult(
  turn: TurnIdentity,
  attempt: number,
  call: ShownCall,
  outcome: ToolOutcomeStored,
): OutgoingMessage {
  const { eventType, value } = toolResultShown(turn.turnId, attempt, call, outcome);
  return outbound(turn, eventType, value);
}

/** The request itself: answered to this service, under the operation key, which is also what makes it run once. */
export function toolRequested(
  turn: TurnIdentity,
  attempt: number,
  call: CallToRequest,
  deadlineAt: string,
): OutgoingMessage {
  const value: ToolRequested = {
    call_id: call.callId,
    turn_id: turn.turnId,
    session_id: turn.sessionId,
    step: call.step,
    attempt,
    tool: call.input.tool,
    arguments: { ...call.input.arguments },
    deadline_at: deadlineAt,
    idempotency_key: call.callId,
  };
  return {
    ...outbound(turn, 'tool.requested', value),
    topic: 'tool.requests',
    schema: toolRequestsSchema,
    correlationId: call.callId,
    replyTo: 'conversation-worker',
  };
}

/** Nobody waits for the call any more. */
export function toolCancelRequested(turn: TurnIdentity, call: ShownCall): OutgoingMessage {
  const value: ToolCancelRequested = {
    ...{ call_id: call.callId, turn_id: turn.turnId, session_id: turn.sessionId },
    ...{ step: call.step, tool: call.tool },
  };
  return {
    ...outbound(turn, 'tool.cancel_requested', value),
    topic: 'tool.requests',
    schema: toolRequestsSchema,
    correlationId: call.callId,
    replyTo: 'conversation-worker',
  };
}

export interface FinalAnswer {
  readonly text: string;
  readonly endReason: EndReason;
  readonly model: string;
  readonly inputTokens: number;
  readonly outputTokens: number;
}

export function assistantFinal(turn: TurnIdentity, attempt: number, answer: FinalAnswer): OutgoingMessage {
  const value: AssistantFinal = {
    turn_id: turn.turnId,
    attempt,
    text: answer.text,
    length: countCodePoints(answer.text),
    end_reason: answer.endReason,
    model: answer.model,
    usage: { input_tokens: answer.inputTokens, output_tokens: answer.outputTokens },
  };
  return outbound(turn, 'assistant.final', value);
}

export function assistantError(turn: TurnIdentity, attempt: number, error: Fault): OutgoingMessage {
  const value: AssistantError = {
    turn_id: turn.turnId,
    attempt,
    error_code: error.code,
    message: error.message,
  };
  return outbound(turn, 'assistant.error', value);
}
