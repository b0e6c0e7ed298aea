import {
  comparePositions,
  formatStreamId,
  parseStreamId,
  type StreamPosition,
  streamStart,
} from '@signalbox/api/stream-id';
import { isId } from '@signalbox/contracts/ids';
import type { SessionPage } from '@signalbox/contracts/jobs';
import { fault } from '@signalbox/faults/fault';
import type { Database, Queryable } from '@signalbox/postgres/database';
import { hasSession } from './session-store.ts';
import type { SessionRef } from './session-stream.ts';

/** Up to where a session's rows were handed out: events by their stream id, messages by their turn. */
interface PageCursor {
  readonly event: StreamPosition;
  /** Empty before the first message. */
  readonly turnId: string;
}

interface EventRow {
  readonly epoch: number;
  readonly position: string;
  readonly event_type: string;
  /** Null where the row alone is too large for an answer. */
  readonly data: string | null;
  readonly stored_at: Date;
  readonly bytes: number;
}

interface MessageRow {
  readonly turn_id: string;
  readonly event_id: string;
  readonly body: Record<string, unknown> | null;
  readonly accepted_at: Date;
  readonly bytes: number;
}

/** An answer is one record of 900 kB at most; a page that is larger than this ends, with one row at least. */
const maxPageBytes = 524_288;
const maxRowBytes = 850_000;

// Sizes are read without the values, which for long texts stand elsewhere: a page of large rows is read as far as it fits.
const eventsStatement = {
  name: 'gateway_export_events',
  text: `select epoch, position, event_type, stored_at, bytes, case when bytes <= $7 then data end as data
    from (select x.*, octet_length(x.data) as bytes,
            sum(octet_length(x.data)) over (order by x.epoch, x.position) - octet_length(x.data) as before
          from (select * from gateway.session_events
                  where tenant = $1 and session_id = $2 and (epoch, position) > ($3, $4)
                  order by epoch, position limit $5) x) y
    where before <= $6 order by epoch, position`,
};
const messagesStatement = {
  name: 'gateway_export_messages',
  text: `select turn_id, event_id, accepted_at, bytes, case when bytes <= $6 then body end as body
    from (select x.*, octet_length(x.body::text) as bytes,
            sum(octet_length(x.body::text)) over (order by x.turn_id) - octet_length(x.body::text) as before
          from (select * from gateway.messages
                  where tenant = $1 and session_id = $2 and ($3::uuid is null or turn_id > $3)
                  order by turn_id limit $4) x) y
    where before <= $5 order by turn_id`,
};

/**
 * A page of everything that is kept of a session, oldest first: its stored events in the order of the stream, and each
 * posted message before what came of it. Throws NOT_FOUND for a session that is not the tenant's.
 *
 * A message has no place in the stream; it was accepted before any event of its turn was stored, both by the database's
 * clock. So it comes before the first event that was stored after it, which is the same whatever the page's length.
 */
export function sessionPage(
  database: Database,
  session: SessionRef,
  after: string | undefined,
  limit: number,
): Promise<SessionPage> {
  const from = after === undefined ? { event: streamStart, turnId: '' } : parseCursor(after);
  if (from === undefined) throw fault('MALFORMED_REQUEST', 'after is no cursor of a session page');
  return database.transaction(
    async (tx) => {
      if (!(await hasSession(tx, session))) throw fault('NOT_FOUND', 'there is no such session');
      return merge(
        await eventsOf(tx, session, from, limit),
        await messagesOf(tx, session, from, limit),
        from,
        limit,
      );
    },
    { tenant: session.tenant },
  );
}

function eventsOf(tx: Queryable, { tenant, sessionId }: SessionRef, { event }: PageCursor, limit: number) {
  return tx.query<EventRow>(eventsStatement, [
    ...[tenant, sessionId, event.epoch, event.position.toString(), limit],
    ...[maxPageBytes, maxRowBytes],
  ]);
}

function messagesOf(tx: Queryable, { tenant, sessionId }: SessionRef, { turnId }: PageCursor, limit: number) {
  return tx.query<MessageRow>(messagesStatement, [
    ...[tenant, sessionId, turnId === '' ? null : turnId, limit],
    ...[maxPageBytes, maxRowBytes],
  ]);
}

/**
 * Both lists hold what comes next of theirs, cut by number or by bytes. When one of them is used up it may have been cut,
 * and what the other has may lie behind what was cut: the page then ends, unless the list was never cut.
 */
function merge(
  events: readonly EventRow[],
  messages: readonly MessageRow[],
  from: PageCursor,
  limit: number,
): SessionPage {
  const rows: Record<string, unknown>[] = [];
  let cursor = from;
  let bytes = 0;
  let [e, m] = [0, 0];
  const cut = (list: readonly { bytes: number }[]) =>
    list.length === limit || list.reduce((sum, row) => sum + row.bytes, 0) > maxPageBytes;
  const [eventsCut, messagesCut] = [cut(events), cut(messages)];
  while (rows.length < limit) {
    const event = events[e];
    const message = messages[m];
    if ((event === undefined && eventsCut) || (message === undefined && messagesCut)) break;
    const next =
      message !== undefined && (event === undefined || message.accepted_at <= event.stored_at)
        ? message
        : event;
    if (next === undefined) return { rows };
    if (rows.length > 0 && bytes + Math.min(next.bytes, maxRowBytes) > maxPageBytes) break;
    bytes += next.bytes > maxRowBytes ? 0 : next.bytes;
    if (next === message) {
      m += 1;
      rows.push(shownMessage(message));
      cursor = { ...cursor, turnId: message.turn_id };
    } else if (event !== undefined) {
      e += 1;
      rows.push(shownEvent(event));
      cursor = { ...cursor, event: positionOf(event) };
    }
  }
  return { rows, next_after: formatCursor(cursor) };
}

function shownMessage(row: MessageRow): Record<string, unknown> {
  return {
    kind: 'message',
    turn_id: row.turn_id,
    event_id: row.event_id,
    accepted_at: row.accepted_at.toISOString(),
    ...(row.body === null ? { left_out_bytes: row.bytes } : row.body),
  };
}

function shownEvent(row: EventRow): Record<string, unknown> {
  return {
    kind: 'event',
    id: formatStreamId(positionOf(row)),
    event: row.event_type,
    stored_at: row.stored_at.toISOString(),
    ...(row.data === null ? { left_out_bytes: row.bytes } : { data: JSON.parse(row.data) as unknown }),
  };
}

function positionOf({ epoch, position }: EventRow): StreamPosition {
  return { epoch, position: BigInt(position) };
}

/** At most 62 characters: the turn without its dashes. */
function formatCursor({ event, turnId }: PageCursor): string {
  return `${formatStreamId(event)}.${turnId.replaceAll('-', '')}`;
}

function parseCursor(text: string): PageCursor | undefined {
  const [id = '', hex = '', ...more] = text.split('.');
  const event = parseStreamId(id);
  const turnId = hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
  if (event === undefined || more.length > 0 || (turnId !== '' && !isId(turnId))) return undefined;
  return comparePositions(event, streamStart) < 0 ? undefined : { event, turnId };
}
