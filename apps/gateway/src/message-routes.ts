import { busyRetrySeconds } from '@signalbox/api/accept-load';
import type { WriteRoutes } from '@signalbox/api/write-routes';
import { asFault, isFault } from '@signalbox/faults/fault';
import type { FastifyReply, HttpServer } from '@signalbox/http/types';
import type { Counter } from '@signalbox/telemetry/telemetry';
import type { AcceptedMessage, PostedMessage } from './accept-message.ts';
import { PostedMessageReply, PostMessageBody } from './request-schemas.ts';

export interface MessageRouteOptions {
  accept(posted: PostedMessage): Promise<AcceptedMessage>;
  /** gateway_accept_total. */
  readonly accepts: Counter;
  /** Open turns that a tenant may have: the limit that TENANT_BUSY tells of. */
  readonly maxOpenTurns: number;
  readonly writes: WriteRoutes;
}

export function messageRoutes(server: HttpServer, options: MessageRouteOptions): void {
  const { accept, accepts, maxOpenTurns, writes } = options;
  server.post(
    '/v1/session/message',
    writes.declare({
      operationId: 'postMessage',
      tags: ['chat'],
      summary: 'Post a message',
      description:
        'Answers once the message is stored; its turn then runs whatever fails. Follow it on the event stream of the session, which is where Location points.',
      body: PostMessageBody,
      response: { 202: { description: 'Stored.', ...PostedMessageReply } },
    }),
    async (request, reply) => {
      const { body, observed } = request;
      try {
        const { replayed } = await writes.settle(request, reply, async ({ tenant, key, bodyHash }) => {
          const accepted = await accept({
            tenant,
            sessionId: body.session_id,
            personaId: body.persona_id,
            message: body.message,
            attachments: body.attachments,
            metadata: body.metadata,
            multitaskStrategy: body.multitask_strategy,
            idempotency: key === undefined ? undefined : { key, bodyHash },
            requestId: request.id,
            traceparent: observed.traceparent,
          });
          const { sessionId, eventId, turnId } = accepted.ids;
          const ids = { session_id: sessionId, event_id: eventId, turn_id: turnId };
          const location = `/v1/session/${sessionId}/events`;
          return { answer: { status: 202, body: ids, location }, replayed: accepted.replayed };
        });
        accepts.add(1, { result: replayed ? 'replayed' : 'accepted' });
      } catch (error) {
        if (isFault(error, 'TENANT_BUSY')) tellBusy(reply, maxOpenTurns);
        accepts.add(1, { result: asFault(error).code.toLowerCase() });
        throw error;
      }
    },
  );
}

/** The limit that refused is the one that the headers tell of, not that of requests, of which some may be left. */
function tellBusy(reply: FastifyReply, maxOpenTurns: number): void {
  reply.headers({
    'ratelimit-limit': maxOpenTurns,
    'ratelimit-remaining': 0,
    'ratelimit-reset': busyRetrySeconds,
  });
}
