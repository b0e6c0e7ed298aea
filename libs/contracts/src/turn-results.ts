import { type Static, Type } from 'typebox';
import { Count, Id, Name } from './fields.ts';

/**
 * How a turn ended, told to the service that asked for it (reply_to of its message.posted), in the transaction that ends
 * the turn. `text`: the answer, or what stands of it.
 */
export const TurnEnded = Type.Object({
  session_id: Id,
  turn_id: Id,
  outcome: Type.Union([
    Type.Literal('final'),
    Type.Literal('error'),
    Type.Literal('cancelled'),
    Type.Literal('rejected'),
  ]),
  text: Type.String(),
  end_reason: Type.Optional(Name),
  error_code: Type.Optional(Name),
  message: Type.Optional(Type.String()),
  model: Type.Optional(Type.String()),
  usage: Type.Optional(Type.Object({ input_tokens: Count, output_tokens: Count })),
});
export type TurnEnded = Static<typeof TurnEnded>;

export const turnResultsSchema = 'turn.results.v1';
export const turnResultsEvents = { 'turn.ended': TurnEnded } as const;
