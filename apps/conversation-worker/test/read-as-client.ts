import { isTerminalEvent } from '@signalbox/contracts/conversation-outbound';
import type { OutboundEvent } from './conversation.ts';

/**
 * What a client has at the end of a turn when it follows the rules: events of attempts lower than the highest seen are
 * dropped, repeats too (of deltas the part below the text shown), turn.resumed cuts, and no delta begins behind the text.
 * Throws where the stream breaks them, and where something comes behind the end of the turn.
 */
export function readAsClient(events: readonly OutboundEvent[]): {
  text: string;
  thinking: string;
  /** Event types as they came, runs of one type as one. */
  types: string[];
  /** Those after which nothing may come. */
  terminals: OutboundEvent[];
} {
  let attempt = 1;
  let text = '';
  let thinking = '';
  const types: string[] = [];
  const terminals: OutboundEvent[] = [];
  const seen = new Set<string>();
  for (const event of events) {
    const { type, value, headers } = event;
    // A repeat on the wire (an adopted row that its writer had sent already) has the same event id.
    if (headers.event_id !== undefined && seen.has(headers.event_id)) continue;
    if (headers.event_id !== undefined) seen.add(headers.event_id);
    if (value.attempt < attempt) continue;
    if (terminals.length > 0) throw new Error(`${type} behind ${terminals[0]?.type}`);
    if (isTerminalEvent(type)) terminals.push(event);
    if (value.attempt > attempt && type !== 'turn.resumed')
      throw new Error(`${type} of ${value.attempt} without turn.resumed`);
    attempt = value.attempt;
    if (types.at(-1) !== type) types.push(type);
    if (type === 'turn.resumed') {
      text = '';
      thinking = '';
    }
    if (type === 'assistant.delta') text += newPart(event, text);
    if (type === 'assistant.thinking') thinking += newPart(event, thinking);
  }
  return { text, thinking, types, terminals };
}

function newPart({ type, value }: OutboundEvent, shown: string): string {
  const length = [...shown].length;
  const at = Number(value.at);
  if (at > length) throw new Error(`${type} at ${at} behind ${length} code points`);
  return [...String(value.text)].slice(length - at).join('');
}
