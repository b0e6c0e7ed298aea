import { Type } from 'typebox';
import { Count, Id, Instant, Name, OpenObject } from './fields.ts';

/**
 * What a message does that finds turns of its session unfinished: `enqueue` waits behind them, `reject` is refused,
 * `interrupt` cancels them and runs next.
 */
export const MultitaskStrategy = Type.Union([
  Type.Literal('enqueue'),
  Type.Literal('reject'),
  Type.Literal('interrupt'),
]);
export type MultitaskStrategy = Type.Static<typeof MultitaskStrategy>;

/** A message as the gateway accepted it. The ids are made before the first try, so a repeat carries the same. */
export const MessagePosted = Type.Object({
  session_id: Id,
  turn_id: Id,
  event_id: Id,
  persona_id: Name,
  message: Type.String({ minLength: 1 }),
  attachments: Type.Optional(Type.Array(OpenObject)),
  metadata: Type.Optional(OpenObject),
  /** `enqueue` when left out. */
  multitask_strategy: Type.Optional(MultitaskStrategy),
  /** The turn carries out a task: what it delegates itself is one deeper, and ends with it. */
  delegation: Type.Optional(Type.Object({ task_id: Id, depth: Count })),
  accepted_at: Instant,
});
export type MessagePosted = Type.Static<typeof MessagePosted>;

/** What a person wants of a session that runs. `cancel` ends the turn, or without one all that are unfinished by then. */
export const SessionAction = Type.Object({
  session_id: Id,
  event_id: Id,
  action: Type.Literal('cancel'),
  turn_id: Type.Optional(Id),
  reason: Type.Optional(Type.String({ maxLength: 500 })),
  requested_at: Instant,
});
export type SessionAction = Type.Static<typeof SessionAction>;

export const conversationInboundSchema = 'conversation.inbound.v1';
export const conversationInboundEvents = {
  'message.posted': MessagePosted,
  'session.action': SessionAction,
} as const;
