import { fault } from '@signalbox/faults/fault';
import { identifyRequest } from '@signalbox/http/observe-request';
import type { HttpServer } from '@signalbox/http/types';
import { attribute } from '@signalbox/telemetry/trace';
import type { AcceptedMessage, PostedMessage } from './accept-message.ts';
import { callerOf } from './request-caller.ts';
import { PostedMessageReply, PostMessageBody, PostMessageHeaders } from './request-schemas.ts';

export interface MessageRouteOptions {
  accept(posted: PostedMessage): Promise<AcceptedMessage>;
}

/** Printable ASCII without blanks: UUIDs and hashes fit, and a log or a shell cannot be tricked by one. */
const keyForm = /^[\x21-\x7e]{1,255}$/;

export function messageRoutes(server: HttpServer, { accept }: MessageRouteOptions): void {
  server.post(
    '/v1/session/message',
    {
      schema: {
        operationId: 'postMessage',
        tags: ['chat'],
        summary: 'Post a message',
        description:
          'Answers once the message is stored; its turn then runs whatever fails. Follow it on the event stream of the session, which is where Location points.',
        headers: PostMessageHeaders,
        body: PostMessageBody,
        response: { 202: { description: 'Stored.', ...PostedMessageReply } },
      },
    },
    async (request, reply) => {
      const key = request.headers['idempotency-key'];
      if (key !== undefined && !keyForm.test(key)) {
        throw fault('MALFORMED_REQUEST', 'an Idempotency-Key is 1 to 255 printable ASCII characters', {
          errors: [{ path: 'headers/idempotency-key', message: 'must match [!-~]{1,255}' }],
        });
      }
      const { body, rawBody, observed } = request;
      if (rawBody === undefined) throw fault('MALFORMED_REQUEST', 'the body is not JSON');
      const { ids, replayed } = await accept({
        tenant: callerOf(request).tenant,
        sessionId: body.session_id,
        personaId: body.persona_id,
        message: body.message,
        attachments: body.attachments,
        metadata: body.metadata,
        idempotencyKey: key,
        rawBody,
        requestId: request.id,
        traceparent: observed.traceparent,
      });
      identifyRequest(request, { sessionId: ids.sessionId });
      observed.span?.setAttributes({ [attribute.eventId]: ids.eventId, [attribute.turnId]: ids.turnId });
      if (replayed) reply.header('idempotency-replayed', 'true');
      reply.code(202).header('location', `/v1/session/${ids.sessionId}/events`);
      return { session_id: ids.sessionId, event_id: ids.eventId, turn_id: ids.turnId };
    },
  );
}
