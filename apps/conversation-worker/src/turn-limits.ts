import type { EndReason } from '@signalbox/contracts/conversation-outbound';
import type { ModelEnd } from '@signalbox/model/model-port';
import type { JournalSummary } from './turn-journal.ts';

/** How far one turn may go. A persona may set each of them; the settings are what it leaves out. */
export interface TurnLimits {
  /** Model calls. */
  readonly maxRounds: number;
  readonly maxToolCalls: number;
  /** Output tokens of all rounds together. */
  readonly maxOutputTokens: number;
  /** From the first claim on, waiting for tools included. */
  readonly maxTurnMs: number;
  /** Of the history shown to the model. */
  readonly historyTokens: number;
}

const namesInPersona = {
  max_rounds: 'maxRounds',
  max_tool_calls: 'maxToolCalls',
  max_output_tokens: 'maxOutputTokens',
  max_turn_ms: 'maxTurnMs',
  history_tokens: 'historyTokens',
} as const satisfies Record<string, keyof TurnLimits>;

/** The persona's limits over the defaults. What is no whole number from 1 on is not a limit and is left out. */
export function limitsOf(persona: Readonly<Record<string, unknown>>, defaults: TurnLimits): TurnLimits {
  const limits = { ...defaults };
  for (const [name, field] of Object.entries(namesInPersona)) {
    const value = persona[name];
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 1) limits[field] = value;
  }
  return limits;
}

/** What a finished round leads to. */
export type AfterRound =
  | { readonly next: 'end'; readonly reason: EndReason }
  | { readonly next: 'call_tools' };

/**
 * Decides after a model call, from the journal with that call in it and what it asks for.
 *
 * The model's own end comes first: an answer that is whole ends with `stop` however much it used. Then the limits, in
 * the order rounds, calls, tokens: a round of tools is only begun when its results could still be used, and it is run as
 * a whole or not at all. The limit on time is a timer's, because it strikes inside a call.
 */
export function afterRound(
  summary: JournalSummary,
  end: ModelEnd,
  callsWanted: number,
  limits: TurnLimits,
): AfterRound {
  if (end === 'content_filter') return { next: 'end', reason: 'content_filter' };
  if (end === 'length') return { next: 'end', reason: 'max_tokens' };
  if (end === 'stop' || callsWanted === 0) return { next: 'end', reason: 'stop' };
  if (summary.rounds >= limits.maxRounds) return { next: 'end', reason: 'max_rounds' };
  if (summary.toolCalls + callsWanted > limits.maxToolCalls) return { next: 'end', reason: 'max_tool_calls' };
  if (summary.outputTokens >= limits.maxOutputTokens) return { next: 'end', reason: 'max_tokens' };
  return { next: 'call_tools' };
}
