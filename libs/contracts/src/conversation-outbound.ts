import { Type } from 'typebox';
import { MultitaskStrategy } from './conversation-inbound.ts';
import { TaskTarget } from './delegation-tasks.ts';
import { TaskStatus } from './delegation-updates.ts';
import {
  Attempt,
  CallId,
  Count,
  DurationMs,
  Id,
  MemoryRole,
  Name,
  Namespace,
  OpenObject,
  Step,
  ToolName,
  ToolOutcome,
} from './fields.ts';

const turn = { turn_id: Id, attempt: Attempt };

/** The turn waits behind `position` others. `strategy`: what its message asked for (conversation-inbound.ts). */
export const TurnQueued = Type.Object({
  ...turn,
  position: Count,
  strategy: Type.Optional(MultitaskStrategy),
});
/** The message found its session busy and asked not to wait: it has no turn. `busy_turn_id`: the first in its way. */
export const TurnRejected = Type.Object({
  ...turn,
  reason: Type.Literal('session_busy'),
  busy_turn_id: Type.Optional(Id),
});
/**
 * The turn ended before its answer did. `text` is what stands of the answer, equal to its deltas, `length` its code
 * points. `by`: the event id of the action that asked for it, or of the message that interrupted.
 */
export const TurnCancelled = Type.Object({
  ...turn,
  cause: Type.Union([Type.Literal('requested'), Type.Literal('interrupted')]),
  by: Id,
  reason: Type.Optional(Type.String()),
  text: Type.String(),
  length: Count,
});
export const TurnStarted = Type.Object({ ...turn, persona_id: Name, message_event_id: Id });
/** A turn was taken over: of the text shown so far only the first `keep_chars` code points stand. */
export const TurnResumed = Type.Object({ ...turn, keep_chars: Count });
/** A piece of the answer. `at`: code points of the answer before it; a piece is never cut inside one. */
export const AssistantDelta = Type.Object({ ...turn, at: Count, text: Type.String() });
/** A piece of the model's thinking; `at` counts thinking alone. */
export const AssistantThinking = Type.Object({ ...turn, at: Count, text: Type.String() });
export const ToolStartedShown = Type.Object({
  ...turn,
  step: Step,
  call_id: CallId,
  tool: ToolName,
  arguments: OpenObject,
});
export const ToolResultShown = Type.Object({
  ...turn,
  step: Step,
  call_id: CallId,
  tool: ToolName,
  outcome: ToolOutcome,
  output: Type.String(),
  truncated: Type.Boolean(),
  duration_ms: DurationMs,
});

export const EndReason = Type.Union([
  Type.Literal('stop'),
  Type.Literal('max_rounds'),
  Type.Literal('max_tool_calls'),
  Type.Literal('max_tokens'),
  Type.Literal('max_turn_time'),
  Type.Literal('content_filter'),
]);
export type EndReason = Type.Static<typeof EndReason>;

/** The whole answer, equal to its joined deltas. `length`: its code points. */
export const AssistantFinal = Type.Object({
  ...turn,
  text: Type.String(),
  length: Count,
  end_reason: EndReason,
  model: Type.String(),
  usage: Type.Object({ input_tokens: Count, output_tokens: Count }),
});
/**
 * What the turn remembered before its first model call. `ok` with an empty list: nothing fits. Otherwise it goes on
 * without memories: nobody answered by the deadline, or the question could not be asked or was refused.
 */
export const MemoryRecalledShown = Type.Object({
  ...turn,
  outcome: Type.Union([Type.Literal('ok'), Type.Literal('deadline'), Type.Literal('unavailable')]),
  memories: Type.Array(
    Type.Object({
      memory_id: Id,
      namespace: Namespace,
      role: MemoryRole,
      session_id: Type.Optional(Id),
      text: Type.String(),
      score: Type.Number(),
    }),
  ),
  duration_ms: DurationMs,
});
/** A task that the turn has delegated, as it is now. */
export const DelegationUpdatedShown = Type.Object({
  ...turn,
  step: Step,
  task_id: Id,
  target: TaskTarget,
  status: TaskStatus,
  progress: Type.Optional(Type.String()),
  result: Type.Optional(OpenObject),
  error: Type.Optional(Type.Object({ error_code: Name, message: Type.String() })),
});
export const AssistantError = Type.Object({ ...turn, error_code: Name, message: Type.String() });
/** The least that any event of a turn says; the form of those that are named but not produced yet. */
export const TurnEvent = Type.Object({ turn_id: Id, attempt: Type.Optional(Attempt) });

export type TurnQueued = Type.Static<typeof TurnQueued>;
export type TurnRejected = Type.Static<typeof TurnRejected>;
export type TurnCancelled = Type.Static<typeof TurnCancelled>;
export type TurnStarted = Type.Static<typeof TurnStarted>;
export type TurnResumed = Type.Static<typeof TurnResumed>;
export type AssistantDelta = Type.Static<typeof AssistantDelta>;
export type AssistantThinking = Type.Static<typeof AssistantThinking>;
export type ToolStartedShown = Type.Static<typeof ToolStartedShown>;
export type ToolResultShown = Type.Static<typeof ToolResultShown>;
export type AssistantFinal = Type.Static<typeof AssistantFinal>;
export type MemoryRecalledShown = Type.Static<typeof MemoryRecalledShown>;
export type DelegationUpdatedShown = Type.Static<typeof DelegationUpdatedShown>;
export type AssistantError = Type.Static<typeof AssistantError>;
export type TurnEvent = Type.Static<typeof TurnEvent>;

export const conversationOutboundSchema = 'conversation.outbound.v1';
export const conversationOutboundEvents = {
  'turn.queued': TurnQueued,
  'turn.started': TurnStarted,
  'turn.resumed': TurnResumed,
  'assistant.delta': AssistantDelta,
  'assistant.thinking': AssistantThinking,
  'tool.started': ToolStartedShown,
  'tool.result': ToolResultShown,
  'assistant.final': AssistantFinal,
  'assistant.error': AssistantError,
  'turn.rejected': TurnRejected,
  'turn.cancelled': TurnCancelled,
  'approval.requested': TurnEvent,
  'approval.resolved': TurnEvent,
  'delegation.updated': DelegationUpdatedShown,
  'memory.recalled': MemoryRecalledShown,
  'budget.exceeded': TurnEvent,
} as const;

const terminalEvents: ReadonlySet<string> = new Set([
  'assistant.final',
  'assistant.error',
  'turn.cancelled',
  'turn.rejected',
]);
const deltaEvents: ReadonlySet<string> = new Set(['assistant.delta', 'assistant.thinking']);

/** Whether nothing of its turn comes after an event of this type. */
export function isTerminalEvent(eventType: string): boolean {
  return terminalEvents.has(eventType);
}

/** Whether the event is a piece of text: sent directly, kept in the stream alone, with three headers. */
export function isDeltaEvent(eventType: string): boolean {
  return deltaEvents.has(eventType);
}
