import { callerOf } from '@signalbox/api/request-caller';
import {
  comparePositions,
  formatStreamId,
  parseStreamId,
  type StreamPosition,
  streamStart,
} from '@signalbox/api/stream-id';
import { isId } from '@signalbox/contracts/ids';
import { type Fault, fault } from '@signalbox/faults/fault';
import { identifyRequest } from '@signalbox/http/observe-request';
import type { FastifyRequest, HttpServer } from '@signalbox/http/types';
import type { Database } from '@signalbox/postgres/database';
import {
  EventPage,
  EventPageQuery,
  History,
  HistoryQuery,
  SessionPage,
  SessionPageQuery,
  SessionParams,
  ToolList,
} from './request-schemas.ts';
import { listSessions, listTools, pageEvents, readHistory, type TurnRow } from './session-store.ts';
import type { SessionRef } from './session-stream.ts';

const defaultPage = 50;

/** The session of the path, if it can be one at all: what is no id is nobody's session. */
export function sessionOf(request: FastifyRequest, id: string): SessionRef {
  if (!isId(id)) throw noSession();
  identifyRequest(request, { sessionId: id });
  return { tenant: callerOf(request).tenant, sessionId: id };
}

export function noSession(): Fault {
  return fault('NOT_FOUND', 'there is no such session');
}

/** Throws STREAM_POSITION_GONE when events behind `after` are no longer kept. */
export function refusePruned(after: StreamPosition, pruned: StreamPosition | undefined): void {
  if (pruned !== undefined && comparePositions(after, pruned) < 0) {
    throw fault('STREAM_POSITION_GONE', `events up to ${formatStreamId(pruned)} are no longer kept`);
  }
}

export function sessionRoutes(server: HttpServer, database: Database): void {
  server.get(
    '/v1/sessions',
    {
      schema: {
        operationId: 'listSessions',
        tags: ['sessions'],
        summary: 'Sessions, newest first',
        querystring: SessionPageQuery,
        response: { 200: { description: 'A page.', ...SessionPage } },
      },
    },
    async (request) => {
      const { before, limit = defaultPage } = request.query;
      const sessions = await listSessions(
        database,
        callerOf(request).tenant,
        cursor('before', before),
        limit,
      );
      const last = sessions.at(-1);
      return {
        sessions: sessions.map((each) => ({
          ...each,
          created_at: each.created_at.toISOString(),
          last_message_at: each.last_message_at?.toISOString() ?? null,
        })),
        next_before: sessions.length === limit && last !== undefined ? last.session_id : null,
      };
    },
  );

  server.get(
    '/v1/sessions/:id/events',
    {
      schema: {
        operationId: 'pageEvents',
        tags: ['sessions'],
        summary: 'Stored events of a session as pages',
        description: 'The events of the stream without deltas, under the same ids.',
        params: SessionParams,
        querystring: EventPageQuery,
        response: { 200: { description: 'A page.', ...EventPage } },
      },
    },
    async (request) => {
      const session = sessionOf(request, request.params.id);
      const { after: text, limit = defaultPage } = request.query;
      const after = text === undefined ? undefined : parseStreamId(text);
      if (text !== undefined && after === undefined) throw badCursor('after', 'is no stream id');
      const page = await pageEvents(database, session, after ?? streamStart, limit);
      if (page === undefined) throw noSession();
      if (after !== undefined) refusePruned(after, page.pruned);
      const last = page.events.at(-1);
      return {
        events: page.events.map((each) => ({
          id: each.id,
          event: each.event,
          data: dataOf(each.data),
          stored_at: each.stored_at.toISOString(),
        })),
        next_after: page.events.length === limit && last !== undefined ? last.id : null,
      };
    },
  );

  server.get(
    '/v1/sessions/:id/history',
    {
      schema: {
        operationId: 'readHistory',
        tags: ['sessions'],
        summary: 'Messages and answers of a session',
        params: SessionParams,
        querystring: HistoryQuery,
        response: { 200: { description: 'A page, oldest turn first.', ...History } },
      },
    },
    async (request) => {
      const session = sessionOf(request, request.params.id);
      const { before, limit = defaultPage } = request.query;
      const rows = await readHistory(database, session, cursor('before', before), limit);
      if (rows === undefined) throw noSession();
      const oldest = rows.at(-1);
      return {
        turns: rows.map(turnOf).reverse(),
        next_before: rows.length === limit && oldest !== undefined ? oldest.turn_id : null,
      };
    },
  );

  server.get(
    '/v1/tools',
    {
      schema: {
        operationId: 'listTools',
        tags: ['tools'],
        summary: 'Tools of the tenant',
        response: { 200: { description: 'By name.', ...ToolList } },
      },
    },
    async (request) => ({ tools: await listTools(database, callerOf(request).tenant) }),
  );
}

function turnOf(row: TurnRow) {
  const { body, ended_at: endedAt, epoch, position, event_type: event, data } = row;
  const answered = endedAt !== null && epoch !== null && position !== null && event !== null && data !== null;
  return {
    turn_id: row.turn_id,
    event_id: row.event_id,
    persona_id: body.persona_id,
    message: body.message,
    ...(body.attachments === undefined ? {} : { attachments: [...body.attachments] }),
    ...(body.metadata === undefined ? {} : { metadata: body.metadata }),
    accepted_at: row.accepted_at.toISOString(),
    answer: answered
      ? {
          id: formatStreamId({ epoch, position: BigInt(position) }),
          event,
          data: dataOf(data),
          ended_at: endedAt.toISOString(),
        }
      : null,
  };
}

/** Event data is stored as the JSON text that streams send. */
function dataOf(text: string): Record<string, unknown> {
  const value: unknown = JSON.parse(text);
  return typeof value === 'object' && value !== null ? { ...value } : {};
}

function cursor(name: string, value: string | undefined): string | undefined {
  if (value !== undefined && !isId(value)) throw badCursor(name, 'is no id');
  return value;
}

function badCursor(name: string, message: string): Fault {
  return fault('MALFORMED_REQUEST', `${name} ${message}`, {
    errors: [{ path: `querystring/${name}`, message }],
  });
}
