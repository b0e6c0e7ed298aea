import type { Job, JobKind, JobRequested } from '@signalbox/contracts/jobs';
import { fault } from '@signalbox/faults/fault';
import type { Outbox, OutgoingMessage } from '@signalbox/messaging/messaging';
import type { Database, Queryable } from '@signalbox/postgres/database';

/** A request as it came. */
export interface TakenJob {
  readonly tenant: string;
  readonly job: JobRequested;
  readonly traceparent: string | undefined;
  readonly requestId: string | undefined;
}

/** Which job, and the fence of its run: the number of its begin. */
export interface JobRun {
  readonly tenant: string;
  readonly jobId: string;
  readonly attempt: number;
}

export interface BegunJob extends JobRun {
  readonly kind: string;
  readonly arguments: Record<string, unknown>;
  readonly failures: number;
  readonly requestedAt: Date;
}

/** What a job is traced by: known before its run begins. */
export interface JobOrigin {
  readonly kind: string;
  readonly traceparent: string | undefined;
  readonly requestId: string | undefined;
}

export interface JobEnd {
  readonly status: 'done' | 'failed';
  readonly result?: object;
  readonly error?: string;
  /** What people are told, with the end and never without it. */
  readonly notification: OutgoingMessage;
}

export interface JobPage {
  readonly jobId?: string | undefined;
  readonly before?: string | undefined;
  readonly limit: number;
}

export interface JobStore {
  /** Takes the job once, with what will run it. False when it is known already. */
  take(tx: Queryable, taken: TakenJob): Promise<boolean>;
  /** Undefined when there is none, or when it has ended. */
  origin(tenant: string, jobId: string): Promise<JobOrigin | undefined>;
  /** Begins a run; the runs before it can end nothing any more. Undefined when the job has ended. */
  begin(tenant: string, jobId: string): Promise<BegunJob | undefined>;
  /** Notes that the run failed and the job is to run again. Faults: LEASE_LOST. */
  failedOnce(run: JobRun, error: string): Promise<void>;
  /** Ends the job and tells of it, in one transaction. Faults: LEASE_LOST (nothing was stored). */
  end(run: JobRun, end: JobEnd): Promise<void>;
  /** The same for a job that nothing runs any more. False when it had ended. */
  endLost(tenant: string, jobId: string, end: (kind: string, args: unknown) => JobEnd): Promise<boolean>;
  /** Jobs of the tenant, newest first. */
  list(tenant: string, page: JobPage): Promise<Job[]>;
  /** Forgets jobs of all tenants that ended before: how many went, at most `limit`. */
  prune(before: Date, limit: number): Promise<number>;
}

const take = 'SELECT job_worker.take_job($1, $2, $3, $4, $5, $6, $7) AS fresh';
const ofJob = 'WHERE tenant = $1 AND job_id = $2 AND finished_at IS NULL';
const origin = `SELECT kind, traceparent, request_id FROM job_worker.jobs ${ofJob}`;
const begin = `UPDATE job_worker.jobs SET status = 'running', attempts = attempts + 1 ${ofJob}
  RETURNING kind, arguments, attempts, failures, requested_at`;
const ofRun = `${ofJob} AND attempts = $3`;
const failedOnce = `UPDATE job_worker.jobs SET status = 'waiting', failures = failures + 1, error = $4 ${ofRun}
  RETURNING job_id`;
const end = `UPDATE job_worker.jobs SET status = $4, result = $5, error = $6, finished_at = clock_timestamp() ${ofRun}
  RETURNING job_id`;
const lost = `SELECT kind, arguments, attempts FROM job_worker.jobs ${ofJob} FOR UPDATE`;
const columns = `job_id, kind, status, attempts, arguments, result, error, requested_at, finished_at`;
const one = `SELECT ${columns} FROM job_worker.jobs WHERE tenant = $1 AND job_id = $2`;
const newest = `SELECT ${columns} FROM job_worker.jobs WHERE tenant = $1 AND ($2::uuid IS NULL OR (requested_at, job_id) <
    (SELECT requested_at, job_id FROM job_worker.jobs WHERE tenant = $1 AND job_id = $2))
  ORDER BY requested_at DESC, job_id DESC LIMIT $3`;

interface JobRow {
  readonly job_id: string;
  readonly kind: string;
  readonly status: Job['status'];
  readonly attempts: number;
  readonly arguments: Record<string, unknown>;
  readonly result: Record<string, unknown> | null;
  readonly error: string | null;
  readonly requested_at: Date;
  readonly finished_at: Date | null;
}

export function jobStore(database: Database, outbox: Pick<Outbox, 'put'>): JobStore {
  const lostRun = () => fault('LEASE_LOST', 'another run of the job has begun, or it has ended');

  async function endIn(tx: Parameters<Outbox['put']>[0], run: JobRun, given: JobEnd): Promise<void> {
    const { tenant, jobId, attempt } = run;
    const { status, result, error, notification } = given;
    const json = result === undefined ? null : JSON.stringify(result);
    const rows = await tx.query(end, [tenant, jobId, attempt, status, json, error ?? null]);
    if (rows.length === 0) throw lostRun();
    await outbox.put(tx, [notification]);
  }

  return {
    async take(tx, { tenant, job, traceparent, requestId }) {
      const [row] = await tx.query<{ fresh: boolean }>(take, [
        ...[tenant, job.job_id, job.kind, JSON.stringify(job.arguments), job.requested_at],
        ...[traceparent ?? null, requestId ?? null],
      ]);
      return row?.fresh === true;
    },
    origin: (tenant, jobId) =>
      database.transaction(
        async (tx) => {
          const [row] = await tx.query<{
            kind: JobKind;
            traceparent: string | null;
            request_id: string | null;
          }>(origin, [tenant, jobId]);
          return row === undefined
            ? undefined
            : {
                kind: row.kind,
                traceparent: row.traceparent ?? undefined,
                requestId: row.request_id ?? undefined,
              };
        },
        { tenant },
      ),
    begin: (tenant, jobId) =>
      database.transaction(
        async (tx) => {
          const [row] = await tx.query<JobRow & { failures: number }>(begin, [tenant, jobId]);
          return row === undefined
            ? undefined
            : {
                ...{ tenant, jobId, attempt: row.attempts, kind: row.kind, arguments: row.arguments },
                ...{ failures: row.failures, requestedAt: row.requested_at },
              };
        },
        { tenant },
      ),
    failedOnce: ({ tenant, jobId, attempt }, error) =>
      database.transaction(
        async (tx) => {
          if ((await tx.query(failedOnce, [tenant, jobId, attempt, error])).length === 0) throw lostRun();
        },
        { tenant },
      ),
    end: (run, given) => database.transaction((tx) => endIn(tx, run, given), { tenant: run.tenant }),
    endLost: (tenant, jobId, made) =>
      database.transaction(
        async (tx) => {
          const [row] = await tx.query<JobRow>(lost, [tenant, jobId]);
          if (row === undefined) return false;
          await endIn(tx, { tenant, jobId, attempt: row.attempts }, made(row.kind, row.arguments));
          return true;
        },
        { tenant },
      ),
    list: (tenant, { jobId, before, limit }) =>
      database.transaction(
        async (tx) => {
          const rows =
            jobId === undefined
              ? await tx.query<JobRow>(newest, [tenant, before ?? null, limit])
              : await tx.query<JobRow>(one, [tenant, jobId]);
          return rows.map(jobOf);
        },
        { tenant },
      ),
    async prune(before, limit) {
      const [row] = await database.query<{ gone: number }>('SELECT job_worker.prune_jobs($1, $2) AS gone', [
        before,
        limit,
      ]);
      return row?.gone ?? 0;
    },
  };
}

function jobOf(row: JobRow): Job {
  const { job_id, kind, status, attempts, result, error, requested_at, finished_at } = row;
  return {
    ...{ job_id, kind, status, attempts, arguments: row.arguments },
    ...(result === null ? {} : { result }),
    ...(error === null ? {} : { error }),
    requested_at: requested_at.toISOString(),
    ...(finished_at === null ? {} : { finished_at: finished_at.toISOString() }),
  };
}
