import { createHash } from 'node:crypto';
import type { AcceptLoad } from '@signalbox/api/accept-load';
import { busyRetrySeconds } from '@signalbox/api/accept-load';
import { outboxFull } from '@signalbox/api/outbox-full';
import { callerOf } from '@signalbox/api/request-caller';
import type { WriteRoutes } from '@signalbox/api/write-routes';
import { isId, newId } from '@signalbox/contracts/ids';
import { asFault, type Fault, fault, isFault } from '@signalbox/faults/fault';
import type { FastifyRequest, HttpServer } from '@signalbox/http/types';
import type { Outbox } from '@signalbox/messaging/messaging';
import type { Database } from '@signalbox/postgres/database';
import type { Counter } from '@signalbox/telemetry/telemetry';
import type { CallbackUrlRules } from './callback-url.ts';
import {
  CallbackBody,
  CallbackReply,
  CancelTaskBody,
  maxPayloadBytes,
  SubmitTaskBody,
  TaskPage,
  TaskPageQuery,
  TaskParams,
  TaskReply,
  TaskView,
} from './request-schemas.ts';
import { refuseOver, submitTask } from './submit-task.ts';
import type { TaskRef } from './task-event.ts';
import { taskMessage } from './task-messages.ts';
import { isEnded } from './task-state.ts';
import {
  findStanding,
  keepAnswered,
  listTasks,
  lockAsking,
  readTask,
  type TaskPlace,
  type TaskRow,
} from './task-store.ts';

export interface TaskRouteOptions {
  readonly database: Database;
  readonly writes: WriteRoutes;
  readonly outbox: Pick<Outbox, 'put' | 'full'>;
  readonly load: AcceptLoad;
  /** Open tasks that a tenant may have: the limit that TENANT_BUSY tells of. */
  readonly maxOpenTasks: number;
  readonly callbackUrls: CallbackUrlRules;
  /** delegation_gateway_submit_total. */
  readonly submits: Counter;
}

const defaultPage = 50;
const tags = ['tasks'];

/** The task of the path, if it can be one at all: what is no id is nobody's task. */
export function taskOf(request: FastifyRequest, id: string): TaskRef {
  if (!isId(id)) throw noTask();
  return { tenant: callerOf(request).tenant, taskId: id };
}

export function noTask(): Fault {
  return fault('NOT_FOUND', 'there is no such task');
}

/** What is done with a task, but for its stream. Every record of a task has its key, so it comes behind the ones before. */
export function taskRoutes(server: HttpServer, options: TaskRouteOptions): void {
  const { database, writes, outbox, load, maxOpenTasks, callbackUrls, submits } = options;
  /** A task that is told something adds a row to the outbox, but no open task: only the outbox may refuse it. */
  const admit = () => {
    if (outbox.full) throw outboxFull();
  };

  server.post(
    '/v1/delegation/task',
    writes.declare({
      operationId: 'submitTask',
      tags,
      summary: 'Submit a task',
      description:
        'Answers once the task is stored; it is then carried out, whatever fails. A repeat with the same task_id and body, or the same Idempotency-Key, makes no second task. A persona or handler that is not known fails the task, not this request.',
      body: SubmitTaskBody,
      response: { 202: { description: 'Stored.', ...TaskReply } },
    }),
    async (request, reply) => {
      const { body, rawBody = Buffer.alloc(0), observed, id: requestId } = request;
      const context = { eventId: newId(), requestId, traceparent: observed.traceparent };
      try {
        const { tenant } = callerOf(request);
        const submitting = submitTask({ outbox, load, callbackUrls }, { tenant, body, rawBody, context });
        let stored = false;
        try {
          const { replayed } = await writes.once(
            request,
            reply,
            async (tx) => {
              const answer = await submitting.effect(tx);
              if (submitting.known) reply.header('idempotency-replayed', 'true');
              return answer;
            },
            submitting,
          );
          stored = !replayed && !submitting.known;
          submits.add(1, { result: stored ? 'accepted' : 'replayed' });
        } finally {
          submitting.done(stored);
        }
      } catch (error) {
        if (isFault(error, 'TENANT_BUSY')) {
          // The limit that refused is the one that the headers tell of, not that of requests.
          reply.headers({
            'ratelimit-limit': maxOpenTasks,
            'ratelimit-remaining': 0,
            'ratelimit-reset': busyRetrySeconds,
          });
        }
        submits.add(1, { result: asFault(error).code.toLowerCase() });
        throw error;
      }
    },
  );

  server.post(
    '/v1/delegation/task/:id/cancel',
    writes.declare({
      operationId: 'cancelTask',
      tags,
      summary: 'Cancel a task',
      description:
        'Ends the task and those that it has delegated; it is cancelled when its stream says so. A task that has ended is left alone: 200 with its status.',
      params: TaskParams,
      body: CancelTaskBody,
      response: {
        200: { description: 'It has ended before.', ...TaskReply },
        202: { description: 'Asked for.', ...TaskReply },
      },
    }),
    async (request, reply) => {
      const { body, observed, id: requestId, params } = request;
      const ref = taskOf(request, params.id);
      const context = { eventId: newId(), requestId, traceparent: observed.traceparent };
      const value = {
        task_id: ref.taskId,
        ...(body?.reason === undefined ? {} : { reason: body.reason }),
        requested_at: new Date().toISOString(),
      };
      await writes.once(
        request,
        reply,
        async (tx) => {
          const standing = await findStanding(tx, ref);
          if (standing === undefined) throw noTask();
          const answer = { task_id: ref.taskId, status: standing.status };
          if (isEnded(standing.status)) return { status: 200, body: answer };
          await outbox.put(tx, [taskMessage(ref, { eventType: 'task.cancel_requested', value }, context)]);
          return { status: 202, body: answer };
        },
        { admit },
      );
    },
  );

  server.post(
    '/v1/delegation/task/:id/callback',
    writes.declare({
      operationId: 'answerTask',
      tags,
      summary: 'Give a task the input it asks for',
      description:
        'Taken once for each time that the task asks (status input_required); the same input again gets the same input_id, another one and any other status is 409.',
      params: TaskParams,
      body: CallbackBody,
      response: { 202: { description: 'Stored.', ...CallbackReply } },
    }),
    async (request, reply) => {
      const { body, observed, id: requestId, params } = request;
      const ref = taskOf(request, params.id);
      refuseOver(body.input, maxPayloadBytes, 'input');
      const inputId = newId();
      // The event's id is the input's: a record that was sent twice is known by either.
      const context = { eventId: inputId, requestId, traceparent: observed.traceparent };
      const value = {
        task_id: ref.taskId,
        input_id: inputId,
        input: body.input,
        provided_at: new Date().toISOString(),
      };
      const hash = createHash('sha256')
        .update(request.rawBody ?? '')
        .digest();
      await writes.once(
        request,
        reply,
        async (tx) => {
          const asking = await lockAsking(tx, ref);
          if (asking === undefined) throw noTask();
          const { status, seq, answered_seq: answered, answered_input_id: given } = asking;
          if (status !== 'input_required')
            throw fault('CONFLICT', `the task is ${status}: it asks for nothing`);
          const answer = (id: string) => ({
            status: 202,
            body: { task_id: ref.taskId, status, input_id: id },
            location: `/v1/delegation/task/${ref.taskId}`,
          });
          if (answered === seq && given !== null) {
            if (asking.answered_hash?.equals(hash)) return answer(given);
            throw fault('CONFLICT', 'what the task asks for was answered with another input');
          }
          await keepAnswered(tx, ref, inputId, hash);
          await outbox.put(tx, [taskMessage(ref, { eventType: 'task.input_provided', value }, context)]);
          return answer(inputId);
        },
        { admit },
      );
    },
  );

  server.get(
    '/v1/delegation/task/:id',
    {
      schema: {
        operationId: 'readTask',
        tags,
        summary: 'A task',
        params: TaskParams,
        response: { 200: { description: 'As its last update told.', ...TaskView } },
      },
    },
    async (request) => {
      const row = await readTask(database, taskOf(request, request.params.id));
      if (row === undefined) throw noTask();
      return viewOf(row);
    },
  );

  server.get(
    '/v1/delegation/tasks',
    {
      schema: {
        operationId: 'listTasks',
        tags,
        summary: 'Tasks, newest first',
        description: 'Those that conversations have delegated too. A result is read with its task.',
        querystring: TaskPageQuery,
        response: { 200: { description: 'A page.', ...TaskPage } },
      },
    },
    async (request) => {
      const { status, before, limit = defaultPage } = request.query;
      const page = { status, before: before === undefined ? undefined : placeIn(before), limit };
      const rows = await listTasks(database, callerOf(request).tenant, page);
      const last = rows.at(-1);
      return {
        tasks: rows.map(viewOf),
        next_before:
          rows.length === limit && last !== undefined
            ? `${last.submitted_at.getTime()}-${last.task_id}`
            : null,
      };
    },
  );
}

/** `<milliseconds>-<task id>`: stays a place in the list when its task is gone. */
function placeIn(text: string): TaskPlace {
  const [, ms = '', taskId = ''] = /^(\d{1,14})-(.+)$/.exec(text) ?? [];
  if (ms === '' || !isId(taskId)) {
    const message = 'is no place in this list';
    throw fault('MALFORMED_REQUEST', `before ${message}`, {
      errors: [{ path: 'querystring/before', message }],
    });
  }
  return { submittedAt: new Date(Number(ms)), taskId };
}

function viewOf(row: TaskRow) {
  const { submitted_at, updated_at, deadline_at, ended_at, ...rest } = row;
  const told = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== null));
  return {
    ...told,
    task_id: row.task_id,
    status: row.status,
    seq: row.seq,
    attempt: row.attempt,
    target: row.target,
    priority: row.priority,
    depth: row.depth,
    submitted_at: submitted_at.toISOString(),
    updated_at: updated_at.toISOString(),
    ...(deadline_at === null ? {} : { deadline_at: deadline_at.toISOString() }),
    ...(ended_at === null ? {} : { ended_at: ended_at.toISOString() }),
  };
}
