import { topicList } from '@signalbox/contracts/topics';
import type { Database } from '@signalbox/postgres/database';

const dayMs = 86_400_000;
const batch = 500;

/** A day longer than any topic of dead letters keeps its records: 31 days. */
export const deadLettersKeptMs =
  Math.max(
    ...topicList.filter(({ name }) => name.endsWith('.dlq')).map(({ retentionMs }) => retentionMs ?? 0),
  ) + dayMs;

/** Forgets dead letters past their time, in batches, of several callers one at a time. Resolves with how many went. */
export async function pruneDeadLetters(
  database: Database,
  signal: AbortSignal,
  keptMs = deadLettersKeptMs,
): Promise<{ gone: number; neverReplayed: number }> {
  const total = { gone: 0, neverReplayed: 0 };
  while (!signal.aborted) {
    const [row] = await database.query<{ gone: string; never_replayed: string }>(
      'select gone, never_replayed from messaging.dead_letter_prune(make_interval(secs => $1::float8), $2::int)',
      [keptMs / 1_000, batch],
    );
    const gone = Number(row?.gone ?? 0);
    total.gone += gone;
    total.neverReplayed += Number(row?.never_replayed ?? 0);
    if (gone < batch) break;
  }
  return total;
}
