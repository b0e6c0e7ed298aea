import { comparePositions, parseStreamId } from '@signalbox/api/stream-id';
import type { SseEvent } from '@signalbox/testkit/sse';
import { follow, type OutboundEvent } from './gateway-fixture.ts';

/** Whether an answer's end is among the events. */
export const ended = (events: readonly SseEvent[]) => events.some(({ event }) => event === 'assistant.final');

/** Everything of each event that a reader gets. */
export const shape = (events: readonly SseEvent[]) =>
  events.map(({ id, event, raw }) => `${id} ${event} ${raw}`);

/** The pieces of an answer, joined as they came. */
export function textOf(events: readonly SseEvent[], turnId?: string): string {
  return events
    .filter(({ event }) => event === 'assistant.delta')
    .map(({ data }) => data as { turn_id: string; text: string })
    .filter((data) => turnId === undefined || data.turn_id === turnId)
    .map(({ text }) => text)
    .join('');
}

/** Reads a session's stream up to the end of an answer. */
export async function readToEnd(
  service: { readonly url: string },
  key: string,
  sessionId: string,
  lastEventId?: string,
  timeoutMs?: number,
): Promise<readonly SseEvent[]> {
  await using stream = await follow(
    service,
    key,
    sessionId,
    lastEventId === undefined ? {} : { lastEventId },
  );
  return [...(await stream.until(ended, timeoutMs))];
}

/** Whether each id comes after the one before it. */
export function rise(ids: readonly (string | undefined)[]): boolean {
  const at = ids.map((id) => parseStreamId(id ?? ''));
  return at.every((here, i) => {
    const before = at[i - 1];
    return here !== undefined && (before === undefined || comparePositions(before, here) < 0);
  });
}

/** A turn with everything in it: it waits, thinks, calls a tool, is taken over, and answers `One two three.` */
export function eventfulTurn(turnId: string): OutboundEvent[] {
  const of = (attempt: number, more: Record<string, unknown>) => ({ turn_id: turnId, attempt, ...more });
  const call = { step: 2, call_id: '0123456789abcdef0123456789abcdef', tool: 'calculator' };
  const delta = (attempt: number, at: number, text: string): OutboundEvent => ({
    type: 'assistant.delta',
    value: of(attempt, { at, text }),
  });
  return [
    { type: 'turn.queued', value: of(1, { position: 1 }) },
    { type: 'turn.started', value: of(1, { persona_id: 'assistant', message_event_id: turnId }) },
    { type: 'assistant.thinking', value: of(1, { at: 0, text: 'hm' }) },
    delta(1, 0, 'One '),
    { type: 'tool.started', value: of(1, { ...call, arguments: { expression: '1+1' } }) },
    {
      type: 'tool.result',
      value: of(1, { ...call, outcome: 'ok', output: '2', truncated: false, duration_ms: 3 }),
    },
    delta(1, 4, 'tw'),
    { type: 'turn.resumed', value: of(2, { keep_chars: 0 }) },
    delta(2, 0, 'One '),
    { type: 'assistant.thinking', value: of(2, { at: 0, text: 'again' }) },
    delta(2, 4, 'two '),
    delta(2, 8, 'thr'),
    delta(2, 11, 'ee.'),
    {
      type: 'assistant.final',
      value: of(2, {
        text: 'One two three.',
        length: 14,
        end_reason: 'stop',
        model: 'test',
        usage: { input_tokens: 1, output_tokens: 1 },
      }),
    },
  ];
}
