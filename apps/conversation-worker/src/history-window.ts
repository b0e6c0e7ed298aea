import type { ModelMessage } from '@signalbox/model/model-port';

/** A finished turn as the history keeps it: whole, the message, the tool rounds and the answer. */
export interface HistoryTurn {
  readonly seq: number;
  readonly messages: readonly ModelMessage[];
}

const bytesPerToken = 4;
const tokensPerMessage = 4;

/**
 * Tokens of a text, roughly and on the safe side for most languages: a token is about four bytes of UTF-8 (English: four
 * letters; other scripts take more bytes a letter and more tokens). No provider's tokenizer is asked: the window
 * is a bound, not a bill.
 */
export function estimateTokens(text: string): number {
  return Math.ceil(Buffer.byteLength(text) / bytesPerToken);
}

/** What a turn will cost in a later turn's window. Stored with it, so that the window is one indexed read. */
export function turnTokens(messages: readonly ModelMessage[]): number {
  return messages.reduce((sum, message) => {
    const calls = message.role === 'assistant' ? message.toolCalls : [];
    const inCalls = calls.reduce((all, call) => all + estimateTokens(call.name + call.arguments), 0);
    return sum + tokensPerMessage + estimateTokens(message.text) + inCalls;
  }, 0);
}

/** The messages for the model: the window's turns, oldest first, then this turn's message and what it has led to. */
export function conversationOf(
  window: readonly HistoryTurn[],
  message: string,
  thisTurn: readonly ModelMessage[],
): ModelMessage[] {
  const before = window.flatMap(({ messages }) => messages);
  return [...before, { role: 'user', text: message }, ...thisTurn];
}
