import { EventEmitter } from 'node:events';
import { asFault, fault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import type { PlainPool } from '@signalbox/postgres/plain-pool';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { withoutTrace } from '@signalbox/telemetry/trace';
import { type Runner, type RunnerOptions, run, type TaskList, type WorkerPool } from 'graphile-worker';
import { graphileLogger } from './graphile-log.ts';
import type { PoolLease } from './pool-lease.ts';

export interface JobRunnerParts {
  readonly pool: PlainPool;
  readonly lease: PoolLease;
  readonly tasks: TaskList;
  readonly crontab: NonNullable<RunnerOptions['parsedCronItems']>;
  readonly concurrency: number;
  /** Rejects while the schema is not there. */
  readonly schemaReady: () => Promise<unknown>;
  /** Whether other services can be asked. Before it is so for the first time nothing is run. */
  readonly canAsk: () => boolean;
  /** How long jobs may go on when the process stops; then they are told to end. */
  readonly finishMs: number;
  readonly log: Logger;
}

export interface JobRunner {
  /** Runs jobs until the signal; then those under way may end, and what does not is given back. */
  run(signal: AbortSignal): Promise<void>;
  readonly running: boolean;
}

/** A job is noticed by a notification; this is for those whose time comes, and for notifications that were lost. */
const pollMs = 1_000;
/** After jobs were told to end. */
const graceMs = 2_000;
const releaseMs = 2_000;
const firstDelayMs = 200;
const maxDelayMs = 10_000;

/**
 * graphile-worker under supervision. It gives up by itself when it could not store how a job ended, and its start fails
 * without a database: either way it is started again, and the process lives on. Its signal handlers are off (there is one
 * reader of signals in a process), its outcomes go through its batches, since outside of them a failed one is an unhandled
 * rejection.
 */
export function jobRunner(parts: JobRunnerParts): JobRunner {
  const { lease, log } = parts;
  let running = false;

  async function life(signal: AbortSignal): Promise<void> {
    // A tick that is caught up now would fail for want of an answer, and be gone. A replica too many stands by.
    while (!parts.canAsk() && !signal.aborted) await pause(pollMs / 5, signal);
    if (signal.aborted) return;
    await parts.schemaReady();
    const events = new EventEmitter();
    let workers: WorkerPool | undefined;
    events.on('pool:create', (created: { workerPool: WorkerPool }) => {
      workers = created.workerPool;
      lease.holds(workers.id);
    });
    const leaseEnds = new AbortController();
    // Told when what was missed is caught up.
    events.on('cron:started', () => log.info('jobs.started', { schedules: parts.crontab.length }));
    const beating = lease.run(leaseEnds.signal);
    try {
      const runner = await run({
        pgPool: parts.pool.pool,
        schema: 'graphile_worker',
        taskList: parts.tasks,
        parsedCronItems: parts.crontab,
        concurrency: parts.concurrency,
        noHandleSignals: true,
        pollInterval: pollMs,
        gracefulShutdownAbortTimeout: parts.finishMs,
        logger: graphileLogger(log),
        events,
        preset: { worker: { completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
      });
      running = true;
      await ended(runner, signal);
      if (signal.aborted) await stop(runner, workers);
      else throw fault('INTERNAL_ERROR', 'graphile-worker has stopped by itself');
    } finally {
      running = false;
      lease.holds(undefined);
      leaseEnds.abort();
      await beating;
    }
  }

  async function stop(runner: Runner, workers: WorkerPool | undefined): Promise<void> {
    const stopped = runner.stop().then(
      () => true,
      () => true,
    );
    if (await within(stopped, parts.finishMs + graceMs)) return;
    // They do not end: their locks are taken off, and other processes run them again.
    log.warning('jobs.given_back', {});
    const forced = workers?.forcefulShutdown('the process stops') ?? Promise.resolve();
    await within(
      Promise.resolve(forced).then(
        () => true,
        () => true,
      ),
      releaseMs,
    );
  }

  return {
    run: (signal) =>
      withoutTrace(async () => {
        let delayMs = firstDelayMs;
        while (!signal.aborted) {
          const startedAt = performance.now();
          try {
            await life(signal);
          } catch (error) {
            const level = asFault(error).code === 'INTERNAL_ERROR' ? 'error' : 'warning';
            if (!signal.aborted) log[level]('jobs.runner_failed', { error });
          }
          if (performance.now() - startedAt > maxDelayMs) delayMs = firstDelayMs;
          await pause(Math.random() * delayMs, signal);
          delayMs = Math.min(delayMs * 2, maxDelayMs);
        }
      }),
    get running() {
      return running;
    },
  };
}

/** The end of the runner, or the signal. */
function ended(runner: Runner, signal: AbortSignal): Promise<unknown> {
  const aborted = new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
  return Promise.race([runner.promise, aborted]);
}

/** Whether it resolved in time. */
async function within(done: Promise<boolean>, timeoutMs: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), timeoutMs);
  });
  try {
    return await Promise.race([done, late]);
  } finally {
    clearTimeout(timer);
  }
}
