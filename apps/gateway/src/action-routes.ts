import { outboxFull } from '@signalbox/api/outbox-full';
import { callerOf } from '@signalbox/api/request-caller';
import type { WriteRoutes } from '@signalbox/api/write-routes';
import { conversationInboundSchema, type SessionAction } from '@signalbox/contracts/conversation-inbound';
import { isId, newId } from '@signalbox/contracts/ids';
import { sessionKey } from '@signalbox/contracts/keys';
import type { HttpServer } from '@signalbox/http/types';
import type { Outbox, OutgoingMessage } from '@signalbox/messaging/messaging';
import { ActionReply, PostActionBody } from './request-schemas.ts';
import { noSession } from './session-routes.ts';
import { hasSession } from './session-store.ts';

export interface ActionRouteOptions {
  readonly writes: WriteRoutes;
  readonly outbox: Pick<Outbox, 'put' | 'full'>;
}

/**
 * What a person wants of a session that runs. It takes the way of a message, so that it comes behind the messages that
 * were answered before it; but a tenant with too many turns must still be able to end some.
 */
export function actionRoutes(server: HttpServer, { writes, outbox }: ActionRouteOptions): void {
  server.post(
    '/v1/session/action',
    writes.declare({
      operationId: 'postAction',
      tags: ['chat'],
      summary: 'Act on a session',
      description:
        'cancel: ends the turn of turn_id, or without one every turn of the session that is unfinished when the action is reached, behind the messages answered before it. Each ends with turn.cancelled on the event stream and keeps the text that stands. A turn that has ended is left alone.',
      body: PostActionBody,
      response: { 202: { description: 'Stored.', ...ActionReply } },
    }),
    async (request, reply) => {
      const { body, observed } = request;
      const { tenant } = callerOf(request);
      const { session_id: sessionId, action } = body;
      if (!isId(sessionId)) throw noSession();
      const eventId = newId();
      const value: SessionAction = {
        session_id: sessionId,
        event_id: eventId,
        action,
        ...(body.turn_id === undefined ? {} : { turn_id: body.turn_id }),
        ...(body.reason === undefined ? {} : { reason: body.reason }),
        requested_at: new Date().toISOString(),
      };
      const message: OutgoingMessage = {
        topic: 'conversation.inbound',
        key: sessionKey(tenant, sessionId),
        tenant,
        eventType: 'session.action',
        schema: conversationInboundSchema,
        eventId,
        sessionId,
        requestId: request.id,
        traceparent: observed.traceparent,
        value,
      };
      await writes.once(
        request,
        reply,
        async (tx) => {
          if (!(await hasSession(tx, { tenant, sessionId }))) throw noSession();
          await outbox.put(tx, [message]);
          return {
            status: 202,
            body: { session_id: sessionId, event_id: eventId, action },
            location: `/v1/session/${sessionId}/events`,
          };
        },
        {
          admit() {
            if (outbox.full) throw outboxFull();
          },
        },
      );
    },
  );
}
