import { topicList } from '@signalbox/contracts/topics';
import { pause } from '@signalbox/lifecycle/pause';
import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';

const dayMs = 86_400_000;
const everyMs = 600_000;
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

/** Does so every ten minutes until the signal. Belongs into one service: outbox-sync. */
export async function keepDeadLettersShort(
  { database, log }: { readonly database: Database; readonly log: Logger },
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    // Replicas that started together look at different moments.
    await pause(everyMs * (0.5 + Math.random() / 2), signal);
    if (signal.aborted) return;
    try {
      const { gone, neverReplayed } = await pruneDeadLetters(database, signal);
      if (gone > 0) log.info('dead_letters.pruned', { gone, neverReplayed });
    } catch (error) {
      log.warning('dead_letters.prune_failed', { error });
    }
  }
}
