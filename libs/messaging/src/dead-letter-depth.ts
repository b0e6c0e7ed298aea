import type { Database } from '@signalbox/postgres/database';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';

const readEveryMs = 15_000;

/** The gauge `dlq_depth{topic}`: dead letters that nobody has replayed, read every 15 s. Returns its end. */
export function depthGauge(database: Database, metrics: Metrics, log: Logger): () => void {
  let depths: { value: number; labels: { topic: string } }[] = [];
  let reading = false;
  const read = () => {
    if (reading) return;
    reading = true;
    database
      .query<{ topic: string; depth: string }>('select topic, depth from messaging.dead_letter_depth()')
      .then(
        (rows) => {
          const now = rows.map(({ topic, depth }) => ({ value: Number(depth), labels: { topic } }));
          const gone = depths.filter(({ labels }) => !now.some((each) => each.labels.topic === labels.topic));
          depths = [...now, ...gone.map(({ labels }) => ({ value: 0, labels }))];
        },
        (error: unknown) => log.debug('dead_letters.depth_unknown', { error }),
      )
      .finally(() => {
        reading = false;
      });
  };
  const timer = setInterval(read, readEveryMs).unref();
  read();
  const end = metrics.gauge(
    'dlq_depth',
    { help: 'Dead letters that nobody has replayed yet, by the topic of their record.', labels: ['topic'] },
    () => depths,
  );
  return () => {
    clearInterval(timer);
    end();
  };
}
