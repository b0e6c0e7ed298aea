import { formatStreamId, type StreamPosition } from '@signalbox/api/stream-id';
import { isDeltaEvent, isTerminalEvent } from '@signalbox/contracts/conversation-outbound';
import type { IntakeRecord } from '@signalbox/messaging/messaging';

/** What an event means to the append script (stream-scripts.ts tells each). */
export type EventKind = 'd' | 't' | 'r' | 's' | 'x' | 'c' | 'q' | 'e';

/** A record of conversation.outbound as its session's stream takes it. */
export interface StreamEvent {
  readonly tenant: string;
  readonly sessionId: string;
  readonly at: StreamPosition;
  readonly eventId: string;
  readonly turnId: string;
  readonly attempt: number;
  readonly type: string;
  readonly kind: EventKind;
  /** Code points before a piece of text; of turn.resumed, those that stand. */
  readonly offset: number;
  /** Code points of a piece of text. */
  readonly points: number;
  /** A piece of text: its JSON without `at` and `text`, a line feed, the text. Any other event: the JSON that is sent. */
  readonly body: string;
}

/** What a reader gets. `data` is the JSON text of the event, the same from Redis and from Postgres. */
export interface StreamEntry {
  readonly at: StreamPosition;
  readonly id: string;
  readonly type: string;
  readonly data: string;
}

function kindOf(type: string): EventKind {
  if (type === 'assistant.delta') return 'd';
  if (type === 'assistant.thinking') return 't';
  if (type === 'turn.resumed') return 'r';
  if (type === 'turn.started') return 's';
  if (type === 'turn.cancelled') return 'c';
  if (type === 'turn.queued' || type === 'turn.rejected') return 'q';
  return isTerminalEvent(type) ? 'x' : 'e';
}

/** Code points as everybody here counts them: a surrogate pair is one, a lone surrogate becomes one U+FFFD on the wire. */
export function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

/** The 32 hex digits of a traceparent; undefined when there is none. */
export function traceIdOf(traceparent: string | undefined): string | undefined {
  const traceId = traceparent?.split('-')[1];
  return traceId !== undefined && /^[0-9a-f]{32}$/.test(traceId) ? traceId : undefined;
}

/** Reads a validated record. Undefined when it says no turn: nothing a stream could show. */
export function streamEventOf(record: IntakeRecord, epoch: number): StreamEvent | undefined {
  const { value, eventType: type } = record;
  if (typeof value !== 'object' || value === null || !('turn_id' in value)) return undefined;
  const fields: Record<string, unknown> = { ...value };
  const { turn_id: turnId, attempt, at, text, keep_chars: keepChars } = fields;
  if (typeof turnId !== 'string') return undefined;
  const traceId = traceIdOf(record.traceparent);
  const kind = kindOf(type);
  const shown = traceId === undefined ? fields : { ...fields, trace_id: traceId };
  const base = {
    tenant: record.tenant,
    sessionId: record.sessionId,
    at: { epoch, position: record.offset },
    eventId: record.eventId,
    turnId,
    attempt: typeof attempt === 'number' ? attempt : 1,
    type,
    kind,
  };
  if (isDeltaEvent(type) && typeof text === 'string' && typeof at === 'number') {
    const { at: _at, text: _text, ...rest } = shown;
    return { ...base, offset: at, points: codePoints(text), body: `${JSON.stringify(rest)}\n${text}` };
  }
  const offset = typeof keepChars === 'number' ? keepChars : 0;
  return { ...base, offset, points: 0, body: JSON.stringify({ attempt: 1, ...shown }) };
}

/** Puts a stored piece of text together again: `at` may have moved when its beginning was cut. */
export function pieceData(at: string, body: string): string {
  const line = body.indexOf('\n');
  return `${body.slice(0, line - 1)},"at":${at},"text":${JSON.stringify(body.slice(line + 1))}}`;
}

export function entryOf(at: StreamPosition, type: string, data: string): StreamEntry {
  return { at, id: formatStreamId(at), type, data };
}
