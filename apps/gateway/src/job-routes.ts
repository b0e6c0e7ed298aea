import { outboxFull } from '@signalbox/api/outbox-full';
import { callerOf } from '@signalbox/api/request-caller';
import type { WriteRoutes } from '@signalbox/api/write-routes';
import { isId, newId } from '@signalbox/contracts/ids';
import { Job, type JobKind, type JobRequested, jobsCommandsSchema } from '@signalbox/contracts/jobs';
import { idKey } from '@signalbox/contracts/keys';
import { fault } from '@signalbox/faults/fault';
import type { FastifyReply, FastifyRequest, HttpServer } from '@signalbox/http/types';
import type { Asker } from '@signalbox/messaging/asker';
import type { Outbox, OutgoingMessage } from '@signalbox/messaging/messaging';
import type { Queryable } from '@signalbox/postgres/database';
import { Type } from 'typebox';
import { MemoryExportBody } from './memory-schemas.ts';
import { noAnswerTo, ownerDeadlineMs, refusal } from './owner-answers.ts';
import { SessionParams } from './request-schemas.ts';
import { noSession, sessionOf } from './session-routes.ts';
import { hasSession } from './session-store.ts';

const closed = { additionalProperties: false };
const tags = ['jobs'];
const defaultPage = 50;

const JobParams = Type.Object({ id: Type.String({ description: 'Job id' }) });
const PageQuery = Type.Object(
  {
    before: Type.Optional(Type.String({ description: 'Job id; jobs asked for before it' })),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, description: 'Entries of a page' })),
  },
  closed,
);
const JobPage = Type.Object({
  jobs: Type.Array(Job),
  schedules: Type.Optional(
    Type.Array(Type.Record(Type.String(), Type.Unknown()), {
      description: 'Of scheduled work: name, pattern, when it last ran and with what. On the first page.',
    }),
  ),
  next_before: Type.Union([Type.String(), Type.Null()], { description: 'Null when this page is the last' }),
});
const JobAccepted = Type.Object({ job_id: Type.String({ format: 'uuid' }) });

export interface JobRouteOptions {
  readonly asker: Pick<Asker<'jobs.commands', 'jobs.results'>, 'ask'>;
  readonly writes: WriteRoutes;
  readonly outbox: Pick<Outbox, 'put' | 'full'>;
}

/** Jobs are kept by job-worker: what is asked for goes there through the outbox, how they stand is asked of it. */
export function jobRoutes(server: HttpServer, { asker, writes, outbox }: JobRouteOptions): void {
  async function ask(request: FastifyRequest, value: object) {
    const { tenant } = callerOf(request);
    const answer = await asker.ask({
      tenant,
      key: idKey(tenant, newId()),
      eventType: 'jobs.asked',
      schema: jobsCommandsSchema,
      value,
      deadlineMs: ownerDeadlineMs,
      requestId: request.id,
    });
    if (answer.eventType === 'jobs.refused') throw refusal(answer.value);
    if (answer.eventType !== 'jobs.listed') throw noAnswerTo('a question for jobs', answer.eventType);
    return answer.value;
  }

  /** Keeps the wish for a job with its answer. `check`: inside of the transaction, throws when it cannot be. */
  async function keep(
    request: FastifyRequest,
    reply: FastifyReply,
    job: { kind: JobKind; arguments: Record<string, unknown> },
    check?: (tx: Queryable) => Promise<void>,
  ): Promise<void> {
    const { tenant } = callerOf(request);
    const jobId = newId();
    const value: JobRequested = { job_id: jobId, ...job, requested_at: new Date().toISOString() };
    const message: OutgoingMessage = {
      topic: 'jobs.commands',
      key: idKey(tenant, jobId),
      tenant,
      eventType: 'job.requested',
      schema: jobsCommandsSchema,
      eventId: newId(),
      requestId: request.id,
      traceparent: request.observed.traceparent,
      value,
    };
    await writes.once(
      request,
      reply,
      async (tx) => {
        await check?.(tx);
        await outbox.put(tx, [message]);
        return { status: 202, body: { job_id: jobId }, location: `/v1/jobs/${jobId}` };
      },
      {
        admit() {
          if (outbox.full) throw outboxFull();
        },
      },
    );
  }

  server.get(
    '/v1/jobs',
    {
      schema: {
        operationId: 'listJobs',
        tags,
        summary: 'Jobs of the tenant, newest first',
        description:
          'Asked of job-worker: 504 OWNER_TIMEOUT when it did not answer within 2 s. A job that was just asked for may not be there yet.',
        querystring: PageQuery,
        response: { 200: { description: 'A page.', ...JobPage } },
      },
    },
    async (request) => {
      const { before, limit = defaultPage } = request.query;
      if (before !== undefined && !isId(before)) throw badBefore();
      const { jobs, schedules } = await ask(request, { limit, ...(before === undefined ? {} : { before }) });
      const last = jobs.at(-1);
      return {
        jobs,
        ...(schedules === undefined ? {} : { schedules }),
        next_before: jobs.length === limit && last !== undefined ? last.job_id : null,
      };
    },
  );

  server.get(
    '/v1/jobs/:id',
    {
      schema: {
        operationId: 'getJob',
        tags,
        summary: 'How a job stands',
        description:
          'Asked of job-worker: 504 OWNER_TIMEOUT when it did not answer within 2 s. 404 also for a job that has not reached it yet. The result of an export that is done holds its link and until when it holds.',
        params: JobParams,
        response: { 200: { description: 'The job.', ...Job } },
      },
    },
    async (request) => {
      const { id } = request.params;
      if (!isId(id)) throw noJob();
      const { jobs } = await ask(request, { job_id: id, limit: 1 });
      const job = jobs.find((each) => each.job_id === id);
      if (job === undefined) throw noJob();
      return job;
    },
  );

  const accepted = {
    202: { description: 'Kept: it will run. Location is where it can be looked at.', ...JobAccepted },
  };

  server.post(
    '/v1/sessions/:id/export',
    writes.declare({
      operationId: 'exportSession',
      tags,
      summary: 'Export a session',
      description:
        'A job that writes the messages and stored events of the session as lines of JSON; its result is a signed link that expires. Send no body.',
      params: SessionParams,
      response: accepted,
    }),
    async (given, reply) => {
      const session = sessionOf(given, given.params.id);
      const { sessionId } = session;
      await keep(
        given,
        reply,
        { kind: 'export_session', arguments: { session_id: sessionId } },
        async (tx) => {
          if (!(await hasSession(tx, session))) throw noSession();
        },
      );
    },
  );

  server.post(
    '/v1/memory/exports',
    writes.declare({
      operationId: 'exportMemories',
      tags,
      summary: 'Export memories',
      description:
        'A job that writes the memories of the tenant as lines of JSON; its result is a signed link that expires. {} is all of them.',
      body: MemoryExportBody,
      response: accepted,
    }),
    async (given, reply) => {
      const { session_id: sessionId } = given.body;
      if (sessionId !== undefined && !isId(sessionId)) throw noSession();
      await keep(given, reply, { kind: 'export_memory', arguments: { ...given.body } });
    },
  );
}

function badBefore(): Error {
  return fault('MALFORMED_REQUEST', 'before is no id', {
    errors: [{ path: 'querystring/before', message: 'is no id' }],
  });
}

function noJob(): Error {
  return fault('NOT_FOUND', 'there is no such job');
}
