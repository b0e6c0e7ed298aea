import { callerOf } from '@signalbox/api/request-caller';
import type { WriteRoutes } from '@signalbox/api/write-routes';
import { isId, newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import { type MemoryPage, memoryRecallRequestsSchema } from '@signalbox/contracts/memory-recall';
import { fault } from '@signalbox/faults/fault';
import type { FastifyRequest, HttpServer } from '@signalbox/http/types';
import type { Asker } from '@signalbox/messaging/asker';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { exportMemories, type MemoryPageQuestion } from './memory-export.ts';
import { ExportQuery, SearchBody, SearchReply } from './memory-schemas.ts';
import { noAnswerTo, ownerDeadlineMs, refusal } from './owner-answers.ts';
import { noSession } from './session-routes.ts';

export interface MemorySearchOptions {
  readonly asker: Pick<Asker<'memory.recall.requests', 'memory.recall.results'>, 'ask'>;
  readonly writes: Pick<WriteRoutes, 'declareRead'>;
  readonly maxStallMs: number;
  readonly log: Logger;
}

const defaultLimit = 10;
/** Of a tenant on this replica: each holds a page, and what its client has not read. */
const exportsAtOnce = 4;
const busyRetryMs = 5_000;

/**
 * What is remembered, asked of its owner: no memories are kept here. A session in a question only narrows or weighs what
 * is the tenant's anyway, and memories outlive their session: one that is unknown finds nothing.
 */
export function memorySearchRoutes(server: HttpServer, options: MemorySearchOptions): void {
  const { asker, writes, maxStallMs, log } = options;
  const exporting = new Map<string, number>();

  server.post(
    '/v1/memory/search',
    writes.declareRead({
      operationId: 'searchMemory',
      tags: ['memory'],
      summary: 'Search the memories of the tenant',
      description:
        'By words and likeness, recent ones and those of the session first. It changes nothing and takes no Idempotency-Key. 504 OWNER_TIMEOUT when the memories did not answer within 2 s.',
      body: SearchBody,
      response: { 200: { description: 'What fits.', ...SearchReply } },
    }),
    async (request) => {
      const { limit = defaultLimit, session_id: sessionId, ...rest } = request.body;
      const { tenant } = callerOf(request);
      const answer = await asker.ask({
        tenant,
        key: idKey(tenant, newId()),
        eventType: 'memory.recall_requested',
        schema: memoryRecallRequestsSchema,
        value: { ...rest, limit, ...filter(sessionId) },
        deadlineMs: ownerDeadlineMs,
        requestId: request.id,
      });
      if (answer.eventType === 'memory.refused') throw refusal(answer.value);
      if (answer.eventType !== 'memory.recalled') throw noAnswerTo('a search', answer.eventType);
      return { memories: answer.value.memories, took_ms: answer.value.took_ms };
    },
  );

  server.get(
    '/v1/memory/export',
    {
      // A HEAD would read all of it and show nothing.
      exposeHeadRoute: false,
      schema: {
        operationId: 'exportMemory',
        tags: ['memory'],
        summary: 'All memories of the tenant, as lines of JSON',
        description:
          'One memory a line, by their ids, read page by page while it is sent. The last line is `{"end":true,"count":n}`: an export without it is not whole. When the memories do not answer half-way the connection is cut, it does not end. A tenant has 4 at once on a replica, then 429. For large exports that may be fetched later see POST /v1/memory/exports.',
        querystring: ExportQuery,
        response: {
          200: {
            description: 'The lines.',
            content: { 'application/x-ndjson': { schema: { type: 'string' } } },
          },
        },
      },
    },
    async (request, reply) => {
      const { namespace, session_id: sessionId } = request.query;
      const question: MemoryPageQuestion = {
        ...(namespace === undefined ? {} : { namespaces: [namespace] }),
        ...filter(sessionId),
      };
      const ask = (after: string | undefined, limit: number, signal: AbortSignal) =>
        askPage(request, { ...question, ...(after === undefined ? {} : { after }), limit }, signal);
      const { tenant } = callerOf(request);
      const open = exporting.get(tenant) ?? 0;
      if (open >= exportsAtOnce)
        throw fault('TENANT_BUSY', `${exportsAtOnce} exports of memories are under way`, {
          retryAfterMs: busyRetryMs,
        });
      exporting.set(tenant, open + 1);
      try {
        await exportMemories(reply, { ask, maxStallMs, log });
      } finally {
        const left = (exporting.get(tenant) ?? 1) - 1;
        if (left > 0) exporting.set(tenant, left);
        else exporting.delete(tenant);
      }
    },
  );

  async function askPage(request: FastifyRequest, value: object, signal: AbortSignal): Promise<MemoryPage> {
    const { tenant } = callerOf(request);
    const answer = await asker.ask({
      tenant,
      key: idKey(tenant, newId()),
      eventType: 'memory.page_requested',
      schema: memoryRecallRequestsSchema,
      value,
      deadlineMs: ownerDeadlineMs,
      requestId: request.id,
      signal,
    });
    if (answer.eventType === 'memory.refused') throw refusal(answer.value);
    if (answer.eventType !== 'memory.page') throw noAnswerTo('a page', answer.eventType);
    return answer.value;
  }
}

function filter(sessionId: string | undefined): { session_id?: string } {
  if (sessionId === undefined) return {};
  if (!isId(sessionId)) throw noSession();
  return { session_id: sessionId };
}
