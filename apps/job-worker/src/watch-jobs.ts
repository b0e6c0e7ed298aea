import { pause } from '@signalbox/lifecycle/pause';
import type { Database } from '@signalbox/postgres/database';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import type { ScheduleStore } from './schedule-store.ts';
import type { Schedule } from './schedules.ts';

const everyMs = 5_000;
/** A figure that could not be read anew for so long is not shown. */
const staleMs = 30_000;

const due = `SELECT count(*)::int AS waiting, coalesce(extract(epoch FROM now() - min(run_at)), 0)::float8 AS oldest
  FROM graphile_worker.jobs WHERE locked_at IS NULL AND attempts < max_attempts AND run_at <= now()`;

export interface JobWatch {
  /** Jobs whose time has come and that nobody runs. */
  readonly waiting: number;
  run(signal: AbortSignal): Promise<void>;
}

/** Reads what the metrics tell of the queue and of the schedules; the same in every replica. */
export function watchJobs(
  database: Pick<Database, 'query'>,
  runs: Pick<ScheduleStore, 'all'>,
  schedules: readonly Schedule[],
  metrics: Metrics,
  log: Logger,
): JobWatch {
  let waiting = 0;
  let oldest = 0;
  let successes: readonly { value: number; labels: { schedule: string } }[] = [];
  let readAt = 0;
  const recent = () => Date.now() - readAt < staleMs;
  const labels = { queue: 'jobs' };
  metrics.gauge(
    'work_waiting',
    {
      help: 'Work rows that wait for a process or for their turn in a lane; not those behind a parked one.',
      labels: ['queue'],
    },
    () => (recent() ? [{ value: waiting, labels }] : undefined),
  );
  metrics.gauge(
    'work_oldest_seconds',
    { help: 'How long the lane that waits longest for a process has waited.', labels: ['queue'] },
    () => (recent() ? [{ value: oldest, labels }] : undefined),
  );
  metrics.gauge(
    'schedule_last_success_timestamp',
    {
      help: 'When a schedule last ran without failing, in seconds since 1970; the same in every replica.',
      labels: ['schedule'],
    },
    () => (recent() ? successes : undefined),
  );
  const known = new Set(schedules.map(({ name }) => name));

  async function read(): Promise<void> {
    const [row] = await database.query<{ waiting: number; oldest: number }>(due);
    waiting = row?.waiting ?? 0;
    oldest = row?.oldest ?? 0;
    successes = (await runs.all()).flatMap(({ name, succeeded_at: at }) =>
      at === null || !known.has(name) ? [] : [{ value: at.getTime() / 1_000, labels: { schedule: name } }],
    );
    readAt = Date.now();
  }

  return {
    get waiting() {
      return waiting;
    },
    async run(signal) {
      while (!signal.aborted) {
        await read().catch((error: unknown) => log.debug('jobs.watch_failed', { error }));
        await pause(everyMs, signal);
      }
    },
  };
}
