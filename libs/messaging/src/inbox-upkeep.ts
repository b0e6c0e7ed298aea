import { topicList } from '@signalbox/contracts/topics';
import type { Database } from '@signalbox/postgres/database';

const dayMs = 86_400_000;

/** A day longer than any topic with a consumer keeps its records (delivery rule 11): eight days. */
export const inboxKeptMs =
  Math.max(
    ...topicList.filter(({ consumers }) => consumers.length > 0).map(({ retentionMs }) => retentionMs ?? 0),
  ) + dayMs;

export interface PruneInboxOptions {
  /** Default `inboxKeptMs`. A record whose id is forgotten has its effect again if it comes again. */
  readonly olderThanMs?: number;
  readonly limit: number;
}

/**
 * Forgets the ids of messages that no topic holds any more, whoever their consumer was, of several callers one at a time.
 * Resolves with how many went; as many as the limit means that there may be more. For job-worker, whose role may.
 */
export async function pruneInbox(
  database: Database,
  { olderThanMs = inboxKeptMs, limit }: PruneInboxOptions,
): Promise<number> {
  const [row] = await database.query<{ gone: string }>(
    'select messaging.inbox_prune(make_interval(secs => $1::float8), $2::int) as gone',
    [olderThanMs / 1_000, limit],
  );
  return Number(row?.gone ?? 0);
}
