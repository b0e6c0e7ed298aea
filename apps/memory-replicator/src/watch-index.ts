import type { Queryable } from '@signalbox/postgres/database';
import type { ProbeDetail } from '@signalbox/readiness/board';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';

export interface IndexWatch {
  /** For the board: degraded while recalls do not find what was stored half a minute ago. */
  detail(): ProbeDetail;
  stop(): void;
}

const lookEveryMs = 2_000;
const degradedSeconds = 30;

/** How far the search index is behind the replica. */
export function watchIndex(database: Queryable, log: Logger, metrics: Metrics): IndexWatch {
  let seconds: number | undefined;

  async function look(): Promise<void> {
    try {
      const [row] = await database.query<{ oldest_seconds: number }>(
        'select oldest_seconds from memory_replicator.index_lag()',
      );
      seconds = row?.oldest_seconds;
    } catch (error) {
      seconds = undefined;
      log.debug('memory.index_lag_unknown', { error });
    }
  }

  const timer = setInterval(() => void look(), lookEveryMs).unref();
  const endGauge = metrics.gauge(
    'memory_index_lag_seconds',
    {
      help: 'Age of the oldest replicated memory that a recall does not find by its words yet; 0 when all are found.',
    },
    () => seconds,
  );
  return {
    detail: () => ({
      status: seconds !== undefined && seconds > degradedSeconds ? 'degraded' : 'ok',
      ...(seconds === undefined ? {} : { lag_seconds: Math.round(seconds * 10) / 10 }),
    }),
    stop() {
      clearInterval(timer);
      endGauge();
    },
  };
}
