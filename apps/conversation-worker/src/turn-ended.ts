import { type TurnEnded, turnResultsSchema } from '@signalbox/contracts/turn-results';
import type { OutgoingMessage } from '@signalbox/messaging/outgoing';
import type { TurnPayload } from './opened-turn.ts';
import { outbound, type TurnIdentity } from './turn-events.ts';

/** How a turn ended, without whose it is. */
export type TurnEnding = Omit<TurnEnded, 'session_id' | 'turn_id'>;

/**
 * For a turn that somebody has asked for: how it ended, told to its reply_to under the correlation id of the message.
 * Nothing for others. It belongs in the transaction that ends the turn, of which there is one, whoever ends it: so it is
 * told exactly once.
 */
export function turnEnded(
  turn: TurnIdentity,
  { asked_by: askedBy }: Pick<TurnPayload, 'asked_by'>,
  ending: TurnEnding,
): OutgoingMessage[] {
  if (askedBy === undefined) return [];
  const value: TurnEnded = { session_id: turn.sessionId, turn_id: turn.turnId, ...ending };
  return [
    {
      ...outbound(turn, 'turn.ended', value),
      topic: 'turn.results',
      schema: turnResultsSchema,
      replyTo: askedBy.reply_to,
      correlationId: askedBy.correlation_id,
    },
  ];
}
