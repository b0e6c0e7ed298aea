import { Type } from 'typebox';
import { Id, Instant, Name, OpenObject } from './fields.ts';

/** A message as the gateway accepted it. The ids are made before the first try, so a repeat carries the same. */
export const MessagePosted = Type.Object({
  session_id: Id,
  turn_id: Id,
  event_id: Id,
  persona_id: Name,
  message: Type.String({ minLength: 1 }),
  attachments: Type.Optional(Type.Array(OpenObject)),
  metadata: Type.Optional(OpenObject),
  accepted_at: Instant,
});
export type MessagePosted = Type.Static<typeof MessagePosted>;

export const conversationInboundSchema = 'conversation.inbound.v1';
export const conversationInboundEvents = { 'message.posted': MessagePosted } as const;
