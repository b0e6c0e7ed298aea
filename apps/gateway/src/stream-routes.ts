import { lastEventIdOf, resumePosition } from '@signalbox/api/last-event-id';
import { formatStreamId, type StreamPosition, streamStart } from '@signalbox/api/stream-id';
import { fault } from '@signalbox/faults/fault';
import { encodeEvent, openEventStream } from '@signalbox/http/event-stream';
import type { FastifyRequest, HttpServer } from '@signalbox/http/types';
import { openSocketStream } from '@signalbox/http/web-socket';
import type { PlaceRequest, SessionPlace } from './event-store.ts';
import { SessionParams, StreamQuery } from './request-schemas.ts';
import type { SessionFeeds } from './session-feeds.ts';
import { noSession, refusePruned, sessionOf } from './session-routes.ts';
import type { SessionRef } from './session-stream.ts';
import type { StreamEntry } from './stream-event.ts';

export interface StreamRouteOptions {
  readonly feeds: SessionFeeds;
  /** Where a session stands; `missing` when it is not the tenant's. */
  findPlace(request: PlaceRequest): Promise<SessionPlace | 'missing'>;
  readonly epoch: number;
  readonly keepaliveMs: number;
  readonly retryMs: number;
  readonly maxBufferedBytes: number;
  readonly maxStallMs: number;
  /** Streams open now, by transport: gateway_sse_connections. */
  readonly open: { sse: number; websocket: number };
}

/** RFC 6455, 7.4, as registered: the client is to come back later. */
const tryAgainLater = 1013;

/** Many streams of one session get the same entry: it is encoded once for each transport. */
const encodedEvents = new WeakMap<StreamEntry, string>();
const encodedMessages = new WeakMap<StreamEntry, string>();

function asEvent(entry: StreamEntry): string {
  let text = encodedEvents.get(entry);
  if (text === undefined) {
    text = encodeEvent({ id: entry.id, event: entry.type, data: entry.data });
    encodedEvents.set(entry, text);
  }
  return text;
}

function asMessage(entry: StreamEntry): string {
  let text = encodedMessages.get(entry);
  if (text === undefined) {
    text = `{"id":"${entry.id}","event":${JSON.stringify(entry.type)},"data":${entry.data}}`;
    encodedMessages.set(entry, text);
  }
  return text;
}

/**
 * The two streams of a session: the same events under the same ids, resumed by the last id seen, from any replica. All
 * that can be refused is refused before the stream begins; after that it waits with keepalives for what is away.
 */
export function streamRoutes(server: HttpServer, options: StreamRouteOptions): void {
  const { feeds, findPlace, epoch, open } = options;

  /** Where the stream begins: behind the id given, else before the first event of the oldest open turn. */
  async function beginningOf(session: SessionRef, lastEventId: string | undefined): Promise<StreamPosition> {
    const after = lastEventId === undefined ? undefined : resumePosition(lastEventId, epoch);
    const place = await findPlace({ ...session, wantStart: after === undefined });
    if (place === 'missing') throw noSession();
    if (after === undefined) return place.start ?? place.pruned ?? streamStart;
    refusePruned(after, place.pruned);
    return after;
  }

  const documented = {
    tags: ['chat'],
    params: SessionParams,
    querystring: StreamQuery,
  };

  server.get(
    '/v1/session/:id/events',
    {
      schema: {
        ...documented,
        operationId: 'streamEvents',
        summary: 'Event stream of a session',
        description:
          'Server-sent events: `id`, `event`, `data` (JSON with turn_id, attempt, trace_id). Resume with Last-Event-ID. Without it the stream begins with the oldest turn that is still open, else with the latest one, and first of all says where, by an `id` alone.',
        response: {
          200: {
            description: 'The stream.',
            content: { 'text/event-stream': { schema: { type: 'string' } } },
          },
        },
      },
    },
    async (request, reply) => {
      const session = sessionOf(request, request.params.id);
      const lastEventId = lastEventIdOf(request, request.query.last_event_id);
      const after = await beginningOf(session, lastEventId);
      const stream = openEventStream(reply, {
        retryMs: options.retryMs,
        keepAliveMs: options.keepaliveMs,
        maxBufferedBytes: options.maxBufferedBytes,
        maxStallMs: options.maxStallMs,
      });
      if (stream.closed.aborted) return;
      // An id without data is no event, but the place to resume from (HTML standard, 9.2.6): for a client that is cut
      // before its first event. Should its turn end and another begin meanwhile, it would begin with that one.
      if (lastEventId === undefined) stream.sendEncoded(`id: ${formatStreamId(after)}\n\n`);
      open.sse += 1;
      stream.closed.addEventListener('abort', () => {
        open.sse -= 1;
      });
      feeds.follow(session, after, {
        send: (entry) => stream.sendEncoded(asEvent(entry)),
        drained: () => stream.drained(),
        get bufferedBytes() {
          return stream.bufferedBytes;
        },
        sendAway: (retryMs) => stream.sendAway(retryMs),
        closed: stream.closed,
      });
    },
  );

  /** Decided before the upgrade, so that a refusal is a reply with a status and not a closed socket. */
  const beginnings = new WeakMap<
    FastifyRequest['raw'],
    { session: SessionRef; after: StreamPosition; given: boolean }
  >();
  // With `wsHandler` beside `handler` the route stays in the OpenAPI document, which `websocket: true` takes it out of.
  server.route({
    method: 'GET',
    url: '/v1/session/:id/ws',
    exposeHeadRoute: false,
    schema: {
      ...documented,
      operationId: 'streamSocket',
      summary: 'WebSocket of a session',
      description:
        'Text messages {"id","event","data"}: the events of the event stream, resumed by last_event_id, where 0-0 is before the first event of the session. Without it the first message is {"id"} alone: where the stream begins. What a client sends is ignored.',
      response: { 101: { description: 'Upgraded.', type: 'null' } },
    },
    preHandler: async (request) => {
      if (!request.ws) throw fault('MALFORMED_REQUEST', 'this path takes WebSocket upgrades only');
      const session = sessionOf(request, request.params.id);
      const lastEventId = lastEventIdOf(request, request.query.last_event_id);
      const after = await beginningOf(session, lastEventId);
      beginnings.set(request.raw, { session, after, given: lastEventId !== undefined });
    },
    handler: () => undefined,
    wsHandler: (socket, request) => {
      const beginning = beginnings.get(request.raw);
      if (beginning === undefined) return socket.terminate();
      const stream = openSocketStream(socket, request, {
        pingMs: options.keepaliveMs,
        maxBufferedBytes: options.maxBufferedBytes,
      });
      if (stream.closed.aborted) return;
      if (!beginning.given) stream.send(`{"id":"${formatStreamId(beginning.after)}"}`); // as in the event stream
      open.websocket += 1;
      stream.closed.addEventListener('abort', () => {
        open.websocket -= 1;
      });
      feeds.follow(beginning.session, beginning.after, {
        send: (entry) => stream.send(asMessage(entry)),
        drained: () => stream.drained(),
        get bufferedBytes() {
          return stream.bufferedBytes;
        },
        sendAway: () => stream.close(tryAgainLater, 'this replica cannot follow the session'),
        closed: stream.closed,
      });
    },
  });
}
