import { callerOf } from '@signalbox/api/request-caller';
import type { WriteRoutes } from '@signalbox/api/write-routes';
import { isId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import type { HttpServer } from '@signalbox/http/types';
import type { Database } from '@signalbox/postgres/database';
import { Type } from 'typebox';
import {
  clearNotification,
  clearNotifications,
  listNotifications,
  type NotificationRow,
  readNotification,
} from './notification-store.ts';

const closed = { additionalProperties: false };
const Instant = Type.String({ format: 'date-time' });
const tags = ['notifications'];
const defaultPage = 50;
/** Of one request: the rows are locked and written in its transaction. */
const clearLimit = 1_000;
const cursorForm = /^[0-9]{1,18}$/;

const NotificationParams = Type.Object({ id: Type.String({ description: 'Notification id' }) });
const PageQuery = Type.Object(
  {
    unread: Type.Optional(Type.Boolean({ description: 'Only those that nobody has read' })),
    before: Type.Optional(Type.String({ description: '`next_before` of the page before' })),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 200, description: 'Entries of a page' })),
  },
  closed,
);
const Page = Type.Object({
  notifications: Type.Array(
    Type.Object({
      notification_id: Type.String({ format: 'uuid' }),
      kind: Type.String(),
      level: Type.String({ description: 'info, warning or error' }),
      title: Type.String(),
      body: Type.Optional(Type.String()),
      session_id: Type.Optional(Type.String({ format: 'uuid' })),
      data: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
      created_at: Instant,
      expires_at: Instant,
      read_at: Type.Union([Instant, Type.Null()]),
    }),
  ),
  next_before: Type.Union([Type.String(), Type.Null()], { description: 'Null when this page is the last' }),
});
const ReadReply = Type.Object({ notification_id: Type.String({ format: 'uuid' }), read_at: Instant });
const ClearReply = Type.Object({
  cleared: Type.Integer(),
  more: Type.Boolean({ description: 'There may be others: ask again' }),
});

export interface NotificationRouteOptions {
  readonly database: Database;
  readonly writes: WriteRoutes;
}

/** What people should see although they did not ask for it: listed, read, cleared. All of the tenant see the same. */
export function notificationRoutes(server: HttpServer, options: NotificationRouteOptions): void {
  const { database, writes } = options;

  server.get(
    '/v1/notifications',
    {
      schema: {
        operationId: 'listNotifications',
        tags,
        summary: 'Notifications, newest first',
        description: 'Those of the tenant that have neither expired nor been cleared.',
        querystring: PageQuery,
        response: { 200: { description: 'A page.', ...Page } },
      },
    },
    async (request) => {
      const { unread = false, before, limit = defaultPage } = request.query;
      if (before !== undefined && !cursorForm.test(before)) throw badBefore();
      const rows = await listNotifications(database, callerOf(request).tenant, { unread, before, limit });
      const last = rows.at(-1);
      return {
        notifications: rows.map(shownOf),
        next_before: rows.length === limit && last !== undefined ? last.seq : null,
      };
    },
  );

  server.post(
    '/v1/notifications/:id/read',
    writes.declare({
      operationId: 'readNotification',
      tags,
      summary: 'Mark a notification as read',
      description: 'One that was read before keeps its time. Send no body.',
      params: NotificationParams,
      response: { 200: { description: 'Read.', ...ReadReply } },
    }),
    async (request, reply) => {
      const { tenant } = callerOf(request);
      const id = idOf(request.params.id);
      await writes.once(request, reply, async (tx) => {
        const readAt = await readNotification(tx, tenant, id);
        if (readAt === undefined) throw noNotification();
        return { status: 200, body: { notification_id: id, read_at: readAt.toISOString() } };
      });
    },
  );

  server.delete(
    '/v1/notifications/:id',
    writes.declare({
      operationId: 'clearNotification',
      tags,
      summary: 'Clear a notification',
      description: 'It is not shown again, also when its record comes again.',
      params: NotificationParams,
      response: { 204: { description: 'Cleared.', type: 'null' } },
    }),
    async (request, reply) => {
      const { tenant } = callerOf(request);
      const id = idOf(request.params.id);
      await writes.once(request, reply, async (tx) => {
        if (!(await clearNotification(tx, tenant, id))) throw noNotification();
        return { status: 204 };
      });
    },
  );

  server.delete(
    '/v1/notifications',
    writes.declare({
      operationId: 'clearNotifications',
      tags,
      summary: 'Clear all notifications',
      description: `The oldest first, ${clearLimit} a request.`,
      response: { 200: { description: 'Cleared.', ...ClearReply } },
    }),
    async (request, reply) => {
      const { tenant } = callerOf(request);
      await writes.once(request, reply, async (tx) => {
        const cleared = await clearNotifications(tx, tenant, clearLimit);
        return { status: 200, body: { cleared, more: cleared === clearLimit } };
      });
    },
  );
}

function shownOf(row: NotificationRow) {
  return {
    notification_id: row.notification_id,
    kind: row.kind,
    level: row.level,
    title: row.title,
    ...(row.body === null ? {} : { body: row.body }),
    ...(row.session_id === null ? {} : { session_id: row.session_id }),
    ...(row.data === null ? {} : { data: row.data }),
    created_at: row.created_at.toISOString(),
    expires_at: row.expires_at.toISOString(),
    read_at: row.read_at?.toISOString() ?? null,
  };
}

function idOf(text: string): string {
  if (!isId(text)) throw noNotification();
  return text;
}

function badBefore(): Error {
  const message = 'is no next_before of a page';
  return fault('MALFORMED_REQUEST', `before ${message}`, {
    errors: [{ path: 'querystring/before', message }],
  });
}

function noNotification(): Error {
  return fault('NOT_FOUND', 'there is no such notification');
}
