import { type Caller, callerOf } from '@signalbox/api/request-caller';
import type { WriteRoutes } from '@signalbox/api/write-routes';
import { isId } from '@signalbox/contracts/ids';
import { parseKey } from '@signalbox/contracts/keys';
import { isTopicName, type TopicName, topics } from '@signalbox/contracts/topics';
import { fault } from '@signalbox/faults/fault';
import type { FastifyRequest, HttpServer } from '@signalbox/http/types';
import { requireScope, type Scope } from '@signalbox/identity/scopes';
import {
  type DeadLetterRef,
  type DeadLetterSummary,
  type DeadLetters,
  noDeadLetter,
  type StoredDeadLetter,
} from '@signalbox/messaging/dead-letters';
import {
  DeadLetterPage,
  DeadLetterPageQuery,
  DeadLetterParams,
  PurgeQuery,
  PurgeReply,
  ReplayBody,
  ReplayReply,
  TopicParams,
  WholeDeadLetter,
} from './dead-letter-schemas.ts';

export interface DeadLetterRouteOptions {
  readonly letters: DeadLetters;
  readonly writes: WriteRoutes;
  /** Of this service, as records name where they come from. */
  readonly source: string;
}

const defaultPage = 50;
/** Rows of one purge, so that its transaction stays short. */
const purgeLimit = 1_000;
/** A tenant may only write anew what it could have posted: what services tell each other went by rules of theirs. */
const correctable: ReadonlySet<TopicName> = new Set(['conversation.inbound']);

/** A tenant's own dead letters. Those of nobody (no tenant could be read) are an operator's: `signalbox dlq`. */
export function deadLetterRoutes(server: HttpServer, options: DeadLetterRouteOptions): void {
  const { letters, writes, source } = options;

  server.get(
    '/v1/dlq/:topic',
    {
      schema: {
        operationId: 'listDeadLetters',
        tags: ['operations'],
        summary: 'Dead letters of a topic, newest first',
        description:
          'Records that no consumer could handle, and those that the broker refused. Without their contents. Needs a key with the scope dlq:read.',
        params: TopicParams,
        querystring: DeadLetterPageQuery,
        response: { 200: { description: 'A page.', ...DeadLetterPage } },
      },
    },
    async (request) => {
      const { tenant } = permitted(request, 'dlq:read');
      const topic = topicOf(request.params.topic);
      const { state = 'waiting', before, limit = defaultPage } = request.query;
      if (before !== undefined && !isId(before)) {
        throw fault('MALFORMED_REQUEST', 'before is no id', {
          errors: [{ path: 'querystring/before', message: 'is no id' }],
        });
      }
      const found = await letters.list({ tenant, topic, state, before, limit });
      return {
        dead_letters: found.map(summaryOf),
        next_before: found.length === limit ? (found.at(-1)?.id ?? null) : null,
      };
    },
  );

  server.get(
    '/v1/dlq/:topic/:id',
    {
      schema: {
        operationId: 'getDeadLetter',
        tags: ['operations'],
        summary: 'A dead letter with its bytes',
        description: 'Needs a key with the scope dlq:read.',
        params: DeadLetterParams,
        response: { 200: { description: 'The dead letter.', ...WholeDeadLetter } },
      },
    },
    async (request, reply) => {
      const letter = await letters.get(refOf(permitted(request, 'dlq:read'), request.params));
      if (letter === undefined) throw noDeadLetter();
      reply.header('cache-control', 'no-store');
      return wholeOf(letter);
    },
  );

  server.post(
    '/v1/dlq/:topic/:id/replay',
    {
      ...writes.declare({
        operationId: 'replayDeadLetter',
        tags: ['operations'],
        summary: 'Send a dead letter again',
        description:
          'Puts the record to the end of its session, as a new event with replay_of: as it was, or with a corrected value, which is held against the schema of the topic. Once: a second replay is 409. A replay that cannot be handled either is a dead letter of its own. Needs a key with the scope dlq:write.',
        params: DeadLetterParams,
        body: ReplayBody,
        response: { 202: { description: 'Stored; it goes out at once.', ...ReplayReply } },
      }),
      // No body is no correction.
      preValidation: async (request) => {
        request.body ??= {};
      },
    },
    async (request, reply) => {
      const caller = permitted(request, 'dlq:write');
      const ref = refOf(caller, request.params);
      const { value, event_type: eventType } = request.body;
      const correction = {
        ...(value === undefined ? {} : { value }),
        ...(eventType === undefined ? {} : { eventType }),
      };
      if (Object.keys(correction).length > 0 && !correctable.has(ref.topic)) {
        throw fault('FORBIDDEN', `records of ${ref.topic} are corrected by an operator`);
      }
      // An old state put behind a newer one of its key would be in force.
      if (topics[ref.topic].compacted) {
        throw fault('FORBIDDEN', `states of ${ref.topic} are replayed by an operator`);
      }
      const { traceparent } = request.observed;
      await writes.once(request, reply, async (tx) => {
        const replayed = await letters.replay(tx, {
          ...ref,
          by: by(caller),
          source,
          correction,
          traceparent,
        });
        const bySession = topics[ref.topic].key === 'tenant:session';
        const sessionId = bySession ? parseKey(replayed.key)?.id : undefined;
        return {
          status: 202,
          body: {
            dead_letter_id: ref.id,
            event_id: replayed.eventId,
            replay_of: replayed.replayOf,
            topic: ref.topic,
            ...(sessionId === undefined ? {} : { session_id: sessionId }),
          },
          ...(sessionId === undefined ? {} : { location: `/v1/session/${sessionId}/events` }),
        };
      });
    },
  );

  server.delete(
    '/v1/dlq/:topic/:id',
    writes.declare({
      operationId: 'purgeDeadLetter',
      tags: ['operations'],
      summary: 'Delete a dead letter',
      description: 'Needs a key with the scope dlq:write.',
      params: DeadLetterParams,
      response: { 204: { description: 'Deleted.', type: 'null' } },
    }),
    async (request, reply) => {
      const caller = permitted(request, 'dlq:write');
      const ref = refOf(caller, request.params);
      await writes.once(request, reply, async (tx) => {
        if (!(await letters.purge(tx, { ...ref, by: by(caller) }))) throw noDeadLetter();
        return { status: 204 };
      });
    },
  );

  server.delete(
    '/v1/dlq/:topic',
    writes.declare({
      operationId: 'purgeDeadLetters',
      tags: ['operations'],
      summary: 'Delete the dead letters of a topic up to a time',
      description: `Replayed or not, the oldest first, ${purgeLimit} a request. Needs a key with the scope dlq:write.`,
      params: TopicParams,
      querystring: PurgeQuery,
      response: { 200: { description: 'Deleted.', ...PurgeReply } },
    }),
    async (request, reply) => {
      const caller = permitted(request, 'dlq:write');
      const topic = topicOf(request.params.topic);
      const what = { tenant: caller.tenant, topic, before: new Date(request.query.created_before) };
      await writes.once(request, reply, async (tx) => {
        const purged = await letters.purgeBefore(tx, { ...what, limit: purgeLimit, by: by(caller) });
        return { status: 200, body: { purged, more: purged === purgeLimit } };
      });
    },
  );
}

function permitted(request: FastifyRequest, scope: Scope): Caller {
  const caller = callerOf(request);
  requireScope(caller, scope);
  return caller;
}

function by({ keyId }: Caller): string {
  return `key:${keyId}`;
}

function topicOf(name: string): TopicName {
  if (!isTopicName(name)) throw fault('NOT_FOUND', 'there is no such topic');
  return name;
}

function refOf(
  { tenant }: Caller,
  params: { topic: string; id: string },
): DeadLetterRef & { topic: TopicName } {
  const topic = topicOf(params.topic);
  if (!isId(params.id)) throw noDeadLetter();
  return { tenant, topic, id: params.id };
}

function summaryOf(letter: DeadLetterSummary) {
  return {
    id: letter.id,
    topic: letter.topic,
    partition: letter.place?.partition ?? null,
    offset: letter.place?.offset.toString() ?? null,
    timestamp: letter.place?.timestamp.toISOString() ?? null,
    consumer: letter.consumer,
    reason: letter.reason,
    attempts: letter.attempts,
    key: letter.key,
    event_id: letter.eventId,
    event_type: letter.eventType,
    replay_of: letter.replayOf,
    value_bytes: letter.valueBytes,
    created_at: letter.createdAt.toISOString(),
    replayed_at: letter.replayedAt?.toISOString() ?? null,
    replayed_as: letter.replayedAs,
  };
}

function wholeOf(letter: StoredDeadLetter) {
  return {
    ...summaryOf(letter),
    detail: letter.detail,
    headers: letter.headers,
    value_base64: letter.value?.toString('base64') ?? null,
    value_text: textOf(letter.value),
    traceparent: letter.traceparent,
  };
}

function textOf(bytes: Buffer | null): string | null {
  if (bytes === null) return null;
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}
