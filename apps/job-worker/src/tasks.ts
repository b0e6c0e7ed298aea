import { isId } from '@signalbox/contracts/ids';
import { isTenant } from '@signalbox/contracts/keys';
import { fault } from '@signalbox/faults/fault';
import { attribute } from '@signalbox/telemetry/trace';
import type { TaskList } from 'graphile-worker';
import type { JobStore } from './job-store.ts';
import type { PoolLease } from './pool-lease.ts';
import type { JobOutcome, JobTeller } from './run-job.ts';
import { scheduledJob } from './schedules.ts';

export interface TaskParts {
  readonly store: Pick<JobStore, 'origin'>;
  readonly lease: Pick<PoolLease, 'lost'>;
  readonly teller: JobTeller;
  readonly runSchedule: (name: string, tick: Date, signal: AbortSignal) => Promise<JobOutcome>;
  readonly runRequested: (tenant: string, jobId: string, signal: AbortSignal) => Promise<JobOutcome>;
}

/** The queue's name for jobs of tenants, as job_worker.take_job adds them. */
const requestedJob = 'requested_job';

/** What graphile-worker may run, by name. All that a job does is decided by its payload and what is stored under it. */
export function tasksOf({ store, lease, teller, runSchedule, runRequested }: TaskParts): TaskList {
  return {
    async [scheduledJob](payload, { abortSignal: stopping = never, job }) {
      const { name, tick } = scheduledIn(payload);
      const { lost } = lease;
      await teller.tell({ task: name, attempt: job.attempts, stopping, lost }, () =>
        runSchedule(name, tick, AbortSignal.any([stopping, lost])),
      );
    },
    async [requestedJob](payload, { abortSignal: stopping = never, job }) {
      const { tenant, jobId } = requestedIn(payload);
      const { lost } = lease;
      const origin = await store.origin(tenant, jobId);
      if (origin === undefined) return;
      const { kind, traceparent, requestId } = origin;
      await teller.tell(
        {
          ...{ task: kind, attempt: job.attempts, tenant, requestId, traceparent, stopping, lost },
          attributes: { [attribute.tenantId]: tenant, 'signalbox.job_id': jobId },
        },
        () => runRequested(tenant, jobId, AbortSignal.any([stopping, lost])),
      );
    },
  };
}

const never = new AbortController().signal;

function field(payload: unknown, name: string): unknown {
  return typeof payload === 'object' && payload !== null ? Reflect.get(payload, name) : undefined;
}

/** As crontabOf gives it; `_cron` is graphile-worker's, with the tick that the job is for. */
function scheduledIn(payload: unknown): { name: string; tick: Date } {
  const name = field(payload, 'schedule');
  const at = field(field(payload, '_cron'), 'ts');
  const tick = new Date(typeof at === 'string' ? at : Number.NaN);
  if (typeof name !== 'string' || Number.isNaN(tick.getTime())) {
    throw fault('INTERNAL_ERROR', 'a scheduled job without its schedule and tick');
  }
  return { name, tick };
}

function requestedIn(payload: unknown): { tenant: string; jobId: string } {
  const tenant = field(payload, 'tenant');
  const jobId = field(payload, 'job_id');
  if (!isTenant(tenant) || !isId(jobId)) throw fault('INTERNAL_ERROR', 'a requested job without its id');
  return { tenant, jobId };
}
