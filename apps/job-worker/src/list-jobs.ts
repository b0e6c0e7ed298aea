import type { JobsListed } from '@signalbox/contracts/jobs';
import type { Answering } from '@signalbox/messaging/answerer';
import type { JobStore } from './job-store.ts';
import type { ScheduleStore } from './schedule-store.ts';
import type { Schedule } from './schedules.ts';

export interface ListJobsParts {
  readonly store: Pick<JobStore, 'list'>;
  readonly runs: Pick<ScheduleStore, 'all'>;
  readonly schedules: readonly Schedule[];
}

/**
 * Answers `jobs.asked`: jobs of the tenant that asks, newest first; on the first page the schedules and their last runs
 * too. How much a schedule has done is left out: it was done to all tenants.
 */
export function listJobs({
  store,
  runs,
  schedules,
}: ListJobsParts): Answering<'jobs.commands', 'jobs.asked', 'jobs.results'>['answer'] {
  return async ({ tenant, value: { job_id: jobId, before, limit } }) => {
    const jobs = await store.list(tenant, { jobId, before, limit });
    const value: JobsListed = { jobs };
    if (jobId === undefined && before === undefined) value.schedules = await schedulesOf();
    return { eventType: 'jobs.listed', value };
  };

  async function schedulesOf(): Promise<Record<string, unknown>[]> {
    const last = new Map((await runs.all()).map((run) => [run.name, run]));
    return schedules.map(({ name, cron }) => {
      const run = last.get(name);
      return {
        ...{ name, cron },
        last_run_at: run?.started_at.toISOString() ?? null,
        last_success_at: run?.succeeded_at?.toISOString() ?? null,
        outcome: run?.outcome ?? null,
        ...(run?.error == null ? {} : { error: run.error }),
      };
    });
  }
}
