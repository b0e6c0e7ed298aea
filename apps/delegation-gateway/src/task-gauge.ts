import { repeat } from '@signalbox/api/repeat';
import type { Database } from '@signalbox/postgres/database';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { countByStatus } from './task-store.ts';

const everyMs = 15_000;
const bound = 100_000;

/** The gauge delegation_tasks: counted on a timer, never by a scrape. Absent while the count is not known. */
export function createTaskGauge(parts: {
  readonly database: Database;
  readonly metrics: Metrics;
  readonly log: Logger;
}) {
  const { database, metrics, log } = parts;
  let counts: readonly { readonly status: string; readonly tasks: number }[] = [];
  metrics.gauge(
    'delegation_tasks',
    {
      help: 'Tasks by status: open ones now, ended ones of the last hour; counted up to 100 000. Each replica tells the same.',
      labels: ['status'],
    },
    () => counts.map(({ status, tasks }) => ({ value: tasks, labels: { status } })),
  );
  return {
    /** Counts every 15 s until the signal aborts. */
    refresh: (signal: AbortSignal) =>
      repeat(
        everyMs,
        async () => {
          counts = await countByStatus(database, bound);
        },
        (error) => {
          counts = [];
          log.debug('delegation.count_unknown', { error });
        },
        signal,
      ),
  };
}
