import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import type { MemoryPage, RecalledMemory } from '@signalbox/contracts/memory-recall';
import type { MemoryStored } from '@signalbox/contracts/memory-wal';
import { openAsker } from '@signalbox/messaging/asker';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { openSurroundings, type StartOptions } from '@signalbox/testkit/surroundings';
import { waitFor } from '@signalbox/testkit/wait';

export const tenant = 'acme';

/** One record of memory.wal: a version of a memory, or its end. */
export interface WalRecord {
  readonly tenant?: string;
  readonly memoryId?: string;
  readonly version?: number;
  readonly text?: string;
  readonly deletedAt?: Date;
  readonly traceparent?: string;
  readonly more?: Partial<MemoryStored>;
}

/** A row of the replica, of which only what decides is compared. */
export interface ReplicaRow {
  readonly tenant: string;
  readonly memory_id: string;
  readonly version: number;
  readonly body: string | null;
  readonly deleted_at: Date | null;
}

/** What memory-sync writes, as the value of a record. */
export function walValue(record: WalRecord) {
  const { memoryId = newId(), version = 1, deletedAt } = record;
  if (deletedAt !== undefined) {
    return {
      eventType: 'memory.deleted',
      memoryId,
      value: { memory_id: memoryId, version, deleted_at: deletedAt.toISOString() },
    };
  }
  const value: MemoryStored = {
    memory_id: memoryId,
    version,
    namespace: 'default',
    role: 'user',
    text: record.text ?? `memory ${memoryId}`,
    occurred_at: new Date().toISOString(),
    stored_at: new Date().toISOString(),
    ...record.more,
  };
  return { eventType: 'memory.stored', memoryId, value };
}

/** The rest of the world as memory-replicator sees it: who writes memory.wal, who asks, the database behind. */
export async function startHarness() {
  const around = await openSurroundings({
    topics: [
      'memory.wal',
      'memory.recall.requests',
      'memory.recall.results',
      'jobs.commands',
      'jobs.results',
    ],
    service: 'gateway',
    env: { DATABASE_POOL_SIZE: '4', DATABASE_MAX_OVERFLOW: '4' },
  });
  const { env, settings, database, topics, own, messaging } = around;
  const asker = openAsker({
    ...{ messaging, service: 'gateway', log: silentLog, metrics: silentMetrics },
    ...{ requests: 'memory.recall.requests', results: 'memory.recall.results' },
  });

  /** Writes records to memory.wal, and answers the ids of their memories. */
  async function write(records: readonly WalRecord[]): Promise<string[]> {
    const made = records.map((record) => ({ record, ...walValue(record) }));
    await Promise.all(
      made.map(({ record, eventType, memoryId, value }) =>
        around.send({
          ...{ topic: 'memory.wal', tenant: record.tenant ?? tenant, eventType, value },
          key: idKey(record.tenant ?? tenant, memoryId),
          headers: { traceparent: record.traceparent },
        }),
      ),
    );
    return made.map(({ memoryId }) => memoryId);
  }

  const rows = () =>
    database.query<ReplicaRow>(
      `select tenant, memory_id, version, body, deleted_at from memory_replicator.memories
       where copy = (select live from memory_replicator.copies) order by tenant, memory_id`,
    );

  return {
    ...{ env, settings, database, topics, messaging, own, write, rows },
    /** Waits until the live copy holds exactly these memories in these versions. */
    async replicated(expected: ReadonlyMap<string, number>, timeoutMs = 20_000): Promise<ReplicaRow[]> {
      return await waitFor(
        rows,
        (found) => {
          const held = new Map(found.map(({ memory_id: id, version }) => [id, version]));
          return [...expected].every(([id, version]) => held.get(id) === version);
        },
        { timeoutMs, label: `${expected.size} memories in the replica`, intervalMs: 25 },
      );
    },
    /** Waits until no memory waits for its search row. */
    indexed: (timeoutMs = 20_000) =>
      waitFor(
        () =>
          database.query<{ left: number }>(
            `select count(*)::int as left from memory_replicator.to_index
             union all select 1 from memory_replicator.copies where reindex_tenant is not null`,
          ),
        (found) => found.every(({ left }) => left === 0) && found.length === 1,
        { timeoutMs, label: 'the index', intervalMs: 25 },
      ),
    async recall(
      query: string,
      more: object = {},
      of = tenant,
      deadlineMs = 10_000,
    ): Promise<RecalledMemory[]> {
      const answer = await asker.ask({
        ...{ tenant: of, key: idKey(of, newId()), eventType: 'memory.recall_requested', deadlineMs },
        ...{ schema: 'memory.recall.requests.v1', value: { query, limit: 10, ...more } },
      });
      if (answer.eventType !== 'memory.recalled') throw new Error(JSON.stringify(answer));
      return answer.value.memories;
    },
    async page(more: object = {}, of = tenant): Promise<MemoryPage> {
      const answer = await asker.ask({
        ...{ tenant: of, key: idKey(of, newId()), eventType: 'memory.page_requested', deadlineMs: 10_000 },
        ...{ schema: 'memory.recall.requests.v1', value: { limit: 100, ...more } },
      });
      if (answer.eventType !== 'memory.page') throw new Error(JSON.stringify(answer));
      return answer.value;
    },
    compact: (limit: number, resume?: Record<string, unknown>) =>
      around.upkeep('memory-replicator', 'memory_compaction', { limit, resume }),
    start: (more: Record<string, string> = {}, options: StartOptions = {}) =>
      around.start('memory-replicator', more, options),
    close: around.close,
  };
}

export type Harness = Awaited<ReturnType<typeof startHarness>>;
