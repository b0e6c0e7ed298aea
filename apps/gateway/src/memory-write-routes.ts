import { outboxFull } from '@signalbox/api/outbox-full';
import { callerOf } from '@signalbox/api/request-caller';
import type { WriteRoutes } from '@signalbox/api/write-routes';
import { isId, newId } from '@signalbox/contracts/ids';
import { idKey, sessionKey } from '@signalbox/contracts/keys';
import {
  type MemoryDeleteRequested,
  type MemoryWriteRequested,
  memoryWritesSchema,
} from '@signalbox/contracts/memory-writes';
import { fault } from '@signalbox/faults/fault';
import type { HttpServer } from '@signalbox/http/types';
import type { Outbox, OutgoingMessage } from '@signalbox/messaging/messaging';
import type { Transaction } from '@signalbox/postgres/database';
import { memoryItem } from './memory-item.ts';
import { MemoryParams, MemoryReply, PostMemoryBody } from './memory-schemas.ts';
import { noSession } from './session-routes.ts';
import { hasSession } from './session-store.ts';

export interface MemoryWriteOptions {
  readonly writes: WriteRoutes;
  readonly outbox: Pick<Outbox, 'put' | 'full'>;
}

/** Memories written and forgotten by hand. They go through memory.writes, as those that turns write. */
export function memoryWriteRoutes(server: HttpServer, { writes, outbox }: MemoryWriteOptions): void {
  const admit = () => {
    if (outbox.full) throw outboxFull();
  };

  server.post(
    '/v1/memory',
    writes.declare({
      operationId: 'postMemory',
      tags: ['memory'],
      summary: 'Write a memory',
      description:
        'Answers once the memory is kept; it can be found shortly after. What is said at the same time, in the same namespace, session and role with the same text is one memory, however often it is posted. The time is part of that: without occurred_at it is that of the request, so a repeated request makes another memory unless it carries an Idempotency-Key. With memory_id it becomes the next version of that memory.',
      body: PostMemoryBody,
      response: { 202: { description: 'Kept.', ...MemoryReply } },
    }),
    async (request, reply) => {
      const { body, observed } = request;
      const { tenant } = callerOf(request);
      const { session_id: sessionId } = body;
      if (sessionId !== undefined && !isId(sessionId)) throw noSession();
      const item = memoryItem(tenant, body, Date.now());
      const eventId = newId();
      const value: MemoryWriteRequested = { memories: [item] };
      const message: OutgoingMessage = {
        topic: 'memory.writes',
        key: sessionId === undefined ? idKey(tenant, item.memory_id) : sessionKey(tenant, sessionId),
        tenant,
        eventType: 'memory.write_requested',
        schema: memoryWritesSchema,
        eventId,
        sessionId,
        requestId: request.id,
        traceparent: observed.traceparent,
        value,
      };
      const effect = async (tx: Transaction) => {
        if (sessionId !== undefined && !(await hasSession(tx, { tenant, sessionId }))) throw noSession();
        await outbox.put(tx, [message]);
        return { status: 202, body: { memory_id: item.memory_id, event_id: eventId } };
      };
      await writes.once(request, reply, effect, { admit });
    },
  );

  server.delete(
    '/v1/memory/:id',
    writes.declare({
      operationId: 'deleteMemory',
      tags: ['memory'],
      summary: 'Forget a memory',
      description:
        'Answers once the wish is kept. 202 also for an id that no memory has: the memories are not kept here, and one whose write is still on its way must not come after its deletion. An id of another tenant has no effect, for every tenant has ids of its own.',
      params: MemoryParams,
      response: { 202: { description: 'Kept.', ...MemoryReply } },
    }),
    async (request, reply) => {
      const { tenant } = callerOf(request);
      const memoryId = request.params.id;
      if (!isId(memoryId)) throw fault('NOT_FOUND', 'there is no such memory');
      const eventId = newId();
      const value: MemoryDeleteRequested = { memory_id: memoryId, requested_at: new Date().toISOString() };
      const message: OutgoingMessage = {
        topic: 'memory.writes',
        key: idKey(tenant, memoryId),
        tenant,
        eventType: 'memory.delete_requested',
        schema: memoryWritesSchema,
        eventId,
        requestId: request.id,
        traceparent: request.observed.traceparent,
        value,
      };
      await writes.once(
        request,
        reply,
        async (tx) => {
          await outbox.put(tx, [message]);
          return { status: 202, body: { memory_id: memoryId, event_id: eventId } };
        },
        { admit },
      );
    },
  );
}
