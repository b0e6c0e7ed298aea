import { asFault } from '@signalbox/faults/fault';
import { runWithContext } from '@signalbox/telemetry/context';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { failSpan, type SpanOptions, withSpan } from '@signalbox/telemetry/trace';

/**
 * How a run ended. `failed`: given up, and told. `retried`: it runs again after a delay. `given_back`: the process stops,
 * it runs again elsewhere. `lost`: another process runs it. `skipped`: there was nothing to do, it was done before.
 */
export type JobOutcome = 'done' | 'failed' | 'retried' | 'given_back' | 'lost' | 'skipped';

export interface RunningJob {
  /** A name out of few: of the schedule, or the kind of job. */
  readonly task: string;
  /** Runs of it so far. */
  readonly attempt: number;
  readonly tenant?: string;
  readonly requestId?: string | undefined;
  /** The trace of the request; a new one where nobody asked. */
  readonly traceparent?: string | undefined;
  readonly attributes?: SpanOptions['attributes'];
  /** Aborts when the run must end because the process stops. */
  readonly stopping: AbortSignal;
  /** Aborts when others may run the job, because this process could not show that it lives. */
  readonly lost: AbortSignal;
}

export interface JobTeller {
  /**
   * Runs it in a span of its own and tells how it ended. An error of `run` is told and thrown on: the queue tries the job
   * again then.
   */
  tell(job: RunningJob, run: () => Promise<JobOutcome>): Promise<void>;
  readonly counts: { readonly completed: number; readonly failed: number };
  /** Jobs that run now. */
  readonly busy: number;
}

/** Log, metrics and span of every job, whatever it does. */
export function jobTeller(log: Logger, metrics: Metrics): JobTeller {
  const total = metrics.counter('jobs_total', {
    help: 'Runs of jobs, by task and how they ended.',
    labels: ['task', 'outcome'],
  });
  const seconds = metrics.histogram('job_seconds', {
    help: 'Seconds that a run of a job took.',
    labels: ['task'],
  });
  let completed = 0;
  let failed = 0;
  let busy = 0;

  function told(job: RunningJob, outcome: JobOutcome, startedAt: number, error?: unknown): void {
    const { task, attempt } = job;
    const tookMs = performance.now() - startedAt;
    total.add(1, { task, outcome });
    seconds.record(tookMs / 1_000, { task });
    if (outcome === 'failed') failed += 1;
    else if (outcome === 'done') completed += 1;
    const fields = { task, outcome, attempt, ms: Math.round(tookMs) };
    if (error === undefined) log.info('job.finished', fields);
    else log.warning('job.finished', { ...fields, error });
  }

  return {
    tell(job, run) {
      const { task, attempt, tenant, requestId, traceparent } = job;
      const span: SpanOptions = {
        kind: 'consumer',
        ...(traceparent === undefined ? { root: true } : { parent: traceparent }),
        attributes: { 'signalbox.task': task, 'signalbox.attempt': attempt, ...job.attributes },
      };
      return runWithContext({ tenantId: tenant, requestId }, () =>
        withSpan(`job ${task}`, span, async (running) => {
          const startedAt = performance.now();
          busy += 1;
          try {
            const outcome = await run();
            if (outcome === 'failed') failSpan(running, new Error(`${task} failed`));
            told(job, outcome, startedAt);
          } catch (error) {
            told(job, outcomeOf(error, job), startedAt, error);
            throw error;
          } finally {
            busy -= 1;
          }
        }),
      );
    },
    get counts() {
      return { completed, failed };
    },
    get busy() {
      return busy;
    },
  };
}

function outcomeOf(error: unknown, { stopping, lost }: RunningJob): JobOutcome {
  if (lost.aborted || asFault(error).code === 'LEASE_LOST') return 'lost';
  return stopping.aborted ? 'given_back' : 'retried';
}
