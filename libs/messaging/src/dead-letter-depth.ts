import { sourceTopics } from '@signalbox/contracts/topics';
import type { Database } from '@signalbox/postgres/database';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';

const readEveryMs = 15_000;

/**
 * The gauge `dlq_depth{topic}`: dead letters that nobody has replayed, read every 15 s and not shown before it could be
 * read. Every topic of the release has its series, so that 0 is said and not left out. Returns its end.
 */
export function depthGauge(
  database: Database,
  metrics: Metrics,
  log: Logger,
  everyMs = readEveryMs,
): () => void {
  let depths: ReadonlyMap<string, number> | undefined;
  let reading = false;
  const read = () => {
    if (reading) return;
    reading = true;
    database
      .query<{ topic: string; depth: string }>('select topic, depth from messaging.dead_letter_depth()')
      .then(
        (rows) => {
          const none = sourceTopics.map((topic): [string, number] => [topic, 0]);
          // A .dlq topic has one too: rows that the broker would not take there.
          const earlier = [...(depths?.keys() ?? [])].map((topic): [string, number] => [topic, 0]);
          depths = new Map([
            ...none,
            ...earlier,
            ...rows.map(({ topic, depth }): [string, number] => [topic, Number(depth)]),
          ]);
        },
        (error: unknown) => log.debug('dead_letters.depth_unknown', { error }),
      )
      .finally(() => {
        reading = false;
      });
  };
  const timer = setInterval(read, everyMs).unref();
  read();
  const end = metrics.gauge(
    'dlq_depth',
    { help: 'Dead letters that nobody has replayed yet, by the topic of their record.', labels: ['topic'] },
    () =>
      depths === undefined ? undefined : [...depths].map(([topic, value]) => ({ value, labels: { topic } })),
  );
  return () => {
    clearInterval(timer);
    end();
  };
}
