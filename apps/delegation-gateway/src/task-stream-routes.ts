import { lastEventIdOf, resumePosition } from '@signalbox/api/last-event-id';
import { comparePositions, formatStreamId, type StreamPosition, streamStart } from '@signalbox/api/stream-id';
import { fault } from '@signalbox/faults/fault';
import { encodeEvent, openEventStream } from '@signalbox/http/event-stream';
import type { HttpServer } from '@signalbox/http/types';
import { StreamQuery, TaskParams } from './request-schemas.ts';
import type { TaskEvent, TaskRef } from './task-event.ts';
import type { TaskFeeds } from './task-feeds.ts';
import { noTask, taskOf } from './task-routes.ts';

export interface TaskStreamOptions {
  readonly feeds: TaskFeeds;
  /** The highest event that is no longer kept, null while all are; undefined when the task is not the tenant's. */
  prunedPlace(task: TaskRef): Promise<StreamPosition | null | undefined>;
  readonly epoch: number;
  readonly keepaliveMs: number;
  readonly retryMs: number;
  readonly maxBufferedBytes: number;
  readonly maxStallMs: number;
  /** Streams open now: gateway_sse_connections. */
  readonly open: { sse: number };
}

/** Many streams of one task get the same event: it is encoded once. */
const encoded = new WeakMap<TaskEvent, string>();

function asText(event: TaskEvent): string {
  let text = encoded.get(event);
  if (text === undefined) {
    text = encodeEvent({ id: event.id, event: event.type, data: event.data });
    encoded.set(event, text);
  }
  return text;
}

/**
 * The stream of a task: all of its events under ids that any replica resumes after. All that can be refused is refused
 * before the stream begins; after that it waits with keepalives for what is away. As a session's stream it stays open when
 * nothing more is to be expected: what becomes of the callback_url is told after the task has ended, and a server that
 * closes makes a browser connect again.
 */
export function taskStreamRoutes(server: HttpServer, options: TaskStreamOptions): void {
  const { feeds, prunedPlace, epoch, open } = options;
  server.get(
    '/v1/delegation/task/:id/events',
    {
      schema: {
        operationId: 'streamTask',
        tags: ['tasks'],
        summary: 'Event stream of a task',
        description:
          'Server-sent events from the first one on: `id`, `event` (task.updated, webhook.updated), `data` (JSON with task_id, status, seq, trace_id). Resume with Last-Event-ID. The stream stays open after the task has ended.',
        params: TaskParams,
        querystring: StreamQuery,
        response: {
          200: {
            description: 'The stream.',
            content: { 'text/event-stream': { schema: { type: 'string' } } },
          },
        },
      },
    },
    async (request, reply) => {
      const task = taskOf(request, request.params.id);
      const lastEventId = lastEventIdOf(request, request.query.last_event_id);
      const given = lastEventId === undefined ? undefined : resumePosition(lastEventId, epoch);
      const pruned = await prunedPlace(task);
      if (pruned === undefined) throw noTask();
      if (given !== undefined && pruned !== null && comparePositions(given, pruned) < 0) {
        throw fault('STREAM_POSITION_GONE', `events up to ${formatStreamId(pruned)} are no longer kept`);
      }
      const stream = openEventStream(reply, {
        retryMs: options.retryMs,
        keepAliveMs: options.keepaliveMs,
        maxBufferedBytes: options.maxBufferedBytes,
        maxStallMs: options.maxStallMs,
      });
      if (stream.closed.aborted) return;
      open.sse += 1;
      stream.closed.addEventListener('abort', () => {
        open.sse -= 1;
      });
      feeds.follow(task, given ?? pruned ?? streamStart, {
        send: (event) => stream.sendEncoded(asText(event)),
        drained: () => stream.drained(),
        get bufferedBytes() {
          return stream.bufferedBytes;
        },
        sendAway: (retryMs) => stream.sendAway(retryMs),
        closed: stream.closed,
      });
    },
  );
}
