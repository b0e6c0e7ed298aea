import type { Memory, MemoryPageRequested, MemoryRecallRequested } from '@signalbox/contracts/memory-recall';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import type { Database, Queryable } from '@signalbox/postgres/database';
import { walRows } from './wal-rows.ts';

/** A memory of the replica with its place among the answers to a text. */
export interface FoundMemory {
  readonly memory: Memory;
  readonly score: number;
}

export interface MemoryPageRows {
  readonly memories: readonly Memory[];
  /** The last id that the page has dealt with, when there may be more behind it. */
  readonly nextAfter: string | undefined;
}

export interface ReplicaStore {
  /**
   * Brings the replica up to these records; again, or with older versions among them, it changes nothing. With the id of
   * a rebuild its own copy. Answers how many rows have changed. Faults: DATABASE_UNAVAILABLE (as a whole or not at all
   * for each 64 tenants), LEASE_LOST for a rebuild that is no longer under way, POISON_RECORD.
   */
  take(records: readonly IntakeRecord[], rebuild?: string): Promise<number>;
  /** The memories of a tenant that help with a text, best first. Ended by the server after `timeoutMs`. */
  recall(
    tenant: string,
    asked: Omit<MemoryRecallRequested, 'deadline_at'>,
    timeoutMs: number,
  ): Promise<FoundMemory[]>;
  /** The memories of a tenant behind an id, by their ids. Ended by the server after `timeoutMs`. */
  page(
    tenant: string,
    asked: Omit<MemoryPageRequested, 'deadline_at'>,
    timeoutMs: number,
  ): Promise<MemoryPageRows>;
}

interface MemoryColumns {
  readonly memory_id: string;
  readonly version: number;
  readonly namespace: string;
  readonly session_id: string | null;
  readonly turn_id: string | null;
  readonly persona_id: string | null;
  readonly role: Memory['role'];
  readonly body: string;
  readonly occurred_at: Date;
  readonly expires_at: Date | null;
  readonly metadata: Record<string, unknown> | null;
}

/** Rows that one page looks at, whatever its filter leaves of them. */
const pageWindow = 5_000;
/** What the memories of one answer may have together: the record that carries them is bounded, and so is who reads it. */
const answerBytes = 512 * 1024;
/** Candidates beyond the limit: some were deleted or changed since they were indexed. */
const spare = 10;

const takeText = {
  name: 'memory_replicator_take',
  text: `select memory_replicator.take($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) as changed`,
};
const columns = `m.memory_id, m.version, m.namespace, m.session_id, m.turn_id, m.persona_id, m.role, m.body, m.occurred_at,
  m.expires_at, m.metadata`;
const visible = 'm.deleted_at is null and (m.expires_at is null or m.expires_at > now())';
// The index says which, the rows of the tenant (row level security) say what: a version that is gone by now is left out.
const recallText = {
  name: 'memory_replicator_recall',
  text: `select ${columns}, f.score
    from memory_replicator.match($1, $2, $3, $4, $5, $6) f
    cross join lateral (select * from memory_replicator.memories r where r.tenant = $7 and r.memory_id = f.memory_id
      and r.copy = (select memory_replicator.live_copy()) offset 0) m
    where m.version = f.version and ${visible} and f.score >= $8
    order by f.score desc, m.occurred_at desc, m.memory_id limit $9`,
};
const windowText = {
  name: 'memory_replicator_page_window',
  text: `select m.memory_id from memory_replicator.memories m
    where m.tenant = $1 and m.copy = (select memory_replicator.live_copy()) and m.memory_id > $2
    order by m.memory_id offset ${pageWindow - 1} limit 1`,
};
const pageText = {
  name: 'memory_replicator_page',
  text: `select ${columns} from memory_replicator.memories m
    where m.tenant = $1 and m.copy = (select memory_replicator.live_copy()) and m.memory_id > $2
      and ($3::uuid is null or m.memory_id <= $3) and ${visible}
      and ($4::text[] is null or m.namespace = any ($4)) and ($5::uuid is null or m.session_id = $5)
    order by m.memory_id limit $6`,
};
const foldedText = {
  name: 'memory_replicator_folded',
  text: 'select f.id from memory_replicator.folded($1) as f(id)',
};
const boundText = {
  name: 'memory_replicator_bound',
  text: `select set_config('statement_timeout', $1, true)`,
};
const noId = '00000000-0000-0000-0000-000000000000';

export function replicaStore(database: Database, candidates: number): ReplicaStore {
  /** A transaction that sees one tenant; its statements end on the server when nobody waits for them any more. */
  function asTenant<T>(tenant: string, timeoutMs: number, work: (tx: Queryable) => Promise<T>): Promise<T> {
    const boundMs = Math.max(Math.ceil(timeoutMs), 1);
    return database.transaction(
      async (tx) => {
        // Not waited for: the connection pipelines it, and if it fails, so does what is behind it.
        const bounded = tx.query(boundText, [String(boundMs)]);
        bounded.catch(() => undefined);
        const result = await work(tx);
        await bounded;
        return result;
      },
      // Our own side gives up a moment later, so that the connection is kept.
      { tenant, timeoutMs: boundMs + 1_000 },
    );
  }

  return {
    async take(records, rebuild) {
      let changed = 0;
      for (const values of walRows(records)) {
        const [row] = await database.query<{ changed: number }>(takeText, [rebuild ?? null, ...values]);
        changed += row?.changed ?? 0;
      }
      return changed;
    },
    recall: (tenant, asked, timeoutMs) =>
      asTenant(tenant, timeoutMs, async (tx) => {
        const rows = await tx.query<MemoryColumns & { score: number }>(recallText, [
          asked.query,
          asked.namespaces ?? null,
          asked.roles ?? null,
          asked.session_id ?? null,
          asked.limit + spare,
          candidates,
          tenant,
          asked.min_score ?? 0,
          asked.limit,
        ]);
        const found = rows.map((row) => ({ memory: memoryOf(row), score: row.score }));
        return found.slice(0, fitting(found.map(({ memory }) => memory)));
      }),
    page: (tenant, asked, timeoutMs) =>
      asTenant(tenant, timeoutMs, async (tx) => {
        const after = asked.after ?? noId;
        const [end] = await tx.query<{ memory_id: string }>(windowText, [tenant, after]);
        const rows = await tx.query<MemoryColumns>(pageText, [
          tenant,
          after,
          end?.memory_id ?? null,
          asked.namespaces ?? null,
          asked.session_id ?? null,
          asked.limit,
        ]);
        const ids = rows.map(({ memory_id: id }) => id);
        const folded = new Set((await tx.query<{ id: string }>(foldedText, [ids])).map(({ id }) => id));
        const shown = rows.filter(({ memory_id: id }) => !folded.has(id)).map(memoryOf);
        const fits = fitting(shown);
        const memories = shown.slice(0, fits);
        if (fits < shown.length) return { memories, nextAfter: memories.at(-1)?.memory_id };
        return { memories, nextAfter: rows.length === asked.limit ? rows.at(-1)?.memory_id : end?.memory_id };
      }),
  };
}

/** How many of the memories, from the first on, fit into one answer; one always does. */
function fitting(memories: readonly Memory[]): number {
  let bytes = 0;
  for (const [place, memory] of memories.entries()) {
    bytes += Buffer.byteLength(JSON.stringify(memory), 'utf8');
    if (bytes > answerBytes && place > 0) return place;
  }
  return memories.length;
}

function memoryOf(row: MemoryColumns): Memory {
  return {
    memory_id: row.memory_id,
    version: row.version,
    namespace: row.namespace,
    ...(row.session_id === null ? {} : { session_id: row.session_id }),
    ...(row.turn_id === null ? {} : { turn_id: row.turn_id }),
    ...(row.persona_id === null ? {} : { persona_id: row.persona_id }),
    role: row.role,
    text: row.body,
    occurred_at: row.occurred_at.toISOString(),
    ...(row.expires_at === null ? {} : { expires_at: row.expires_at.toISOString() }),
    ...(row.metadata === null ? {} : { metadata: row.metadata }),
  };
}
