import type { UpkeepTask } from '@signalbox/messaging/upkeep';
import type { Queryable } from '@signalbox/postgres/database';

/**
 * What nobody has seen for so long is removed. Longer than a consumer can be behind its records, by a day: until then a
 * row holds its version against an older one that comes late.
 */
const keepMs = 8 * 24 * 3600 * 1000;
const noId = '00000000-0000-0000-0000-000000000000';

interface Piece {
  readonly looked_at: number;
  readonly deleted: number;
  readonly expired: number;
  readonly folded: number;
  readonly bytes: string;
  readonly last_tenant: string | null;
  readonly last_id: string | null;
}

/**
 * Compaction in pieces of `limit` rows by tenant and id, each a transaction. Removes rows of deleted and expired memories
 * and those that a newer memory says again; none of them is read by anybody. Says what it saved.
 */
export function compactMemories(database: Queryable, now: () => Date = () => new Date()): UpkeepTask {
  return async ({ limit, resume }) => {
    const tenant = typeof resume?.tenant === 'string' ? resume.tenant : '';
    const after = typeof resume?.after === 'string' ? resume.after : noId;
    const [piece] = await database.query<Piece>(
      'select * from memory_replicator.compact($1, $2, $3, $4, make_interval(secs => $5))',
      [tenant, after, limit, now().toISOString(), keepMs / 1000],
    );
    const { looked_at: lookedAt = 0, deleted = 0, expired = 0, folded = 0 } = piece ?? {};
    const more = lookedAt === limit;
    return {
      done: deleted + expired + folded,
      more,
      ...(more ? { resume: { tenant: piece?.last_tenant, after: piece?.last_id } } : {}),
      detail: { looked_at: lookedAt, deleted, expired, folded, bytes: Number(piece?.bytes ?? 0) },
    };
  };
}
