import { isId } from '@signalbox/contracts/ids';
import { isTenant } from '@signalbox/contracts/keys';
import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { JobStore } from './job-store.ts';
import { failedEnd } from './run-export.ts';

/** Ends jobs that nothing will run again; how many, at most `limit`. */
export type EndLostJobs = (limit: number) => Promise<{ done: number; more: boolean }>;

const spent = `SELECT id, key FROM graphile_worker.jobs
  WHERE locked_at IS NULL AND attempts >= max_attempts ORDER BY id LIMIT $1`;
const forget = 'SELECT id FROM graphile_worker.complete_jobs($1)';
const error = 'RETRY_BUDGET_SPENT: the process that ran the job died with it each time';

/**
 * The queue gives a job up when it has begun it as often as it may; a run that ends says so itself, so what is left over
 * are jobs whose processes died with them every time. Their tenants are told, then the queue forgets them.
 */
export function lostJobsEnder(
  database: Pick<Database, 'query'>,
  store: Pick<JobStore, 'endLost'>,
  log: Logger,
): EndLostJobs {
  return async (limit) => {
    const rows = await database.query<{ id: string; key: string | null }>(spent, [limit]);
    for (const { id, key } of rows) {
      const job = jobIn(key);
      if (job !== undefined) {
        const ended = await store.endLost(job.tenant, job.jobId, (kind, args) =>
          failedEnd({ ...job, kind, arguments: args }, error),
        );
        if (ended) log.error('job.given_up', { tenantId: job.tenant, jobId: job.jobId });
      }
      await database.query(forget, [[id]]);
    }
    return { done: rows.length, more: rows.length >= limit };
  };
}

/** The key under which job_worker.take_job adds a job. */
function jobIn(key: string | null): { tenant: string; jobId: string } | undefined {
  const [what, tenant, jobId] = key?.split(':') ?? [];
  return what === 'job' && isTenant(tenant) && isId(jobId) ? { tenant, jobId } : undefined;
}
