import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import { createTestDatabase, openTestDatabase } from '@signalbox/testkit/database';
import { replicaStore } from '../src/replica-store.ts';
import { tenant, type WalRecord, walValue } from './replicator-harness.ts';

/** A record of memory.wal as the intake hands it over. */
export function intakeRecord(record: WalRecord, offset = 0n): IntakeRecord {
  const of = record.tenant ?? tenant;
  const { eventType, memoryId, value } = walValue(record);
  return {
    topic: 'memory.wal',
    partition: 0,
    offset,
    key: idKey(of, memoryId),
    tenant: of,
    keyId: memoryId,
    sessionId: '',
    eventId: newId(),
    eventType,
    schema: 'memory.wal.v1',
    headers: {},
    value,
    bytes: null,
    timestampMs: Date.now(),
    traceparent: undefined,
  };
}

/** The replica of one test database without broker and service: what is put is indexed when `put` returns. */
export async function openReplica(candidates = 500) {
  const database = await createTestDatabase();
  const own = openTestDatabase(database.url);
  const store = replicaStore(own, candidates);
  const index = async () => {
    for (;;) {
      const [row] = await own.query<{ n: number }>('select memory_replicator.index_pending(2000) as n');
      if (row?.n === 0) return;
    }
  };
  return {
    ...{ database, own, store, index },
    async put(records: readonly WalRecord[]): Promise<string[]> {
      const taken = records.map((record) => intakeRecord(record));
      await store.take(taken);
      await index();
      return taken.map(({ keyId }) => keyId);
    },
    /** While another process makes search rows: what is taken in meanwhile waits in to_index. */
    whileIndexing: (step: () => Promise<void>) =>
      own.transaction(async (tx) => {
        await tx.query('select pg_advisory_xact_lock(7241865325824071)');
        await step();
      }),
    async texts(query: string, more: object = {}, of = tenant): Promise<string[]> {
      const found = await store.recall(of, { query, limit: 10, ...more }, 5_000);
      return found.map(({ memory }) => memory.text);
    },
    async close(): Promise<void> {
      await own.close();
      await database.drop();
    },
  };
}

export type Replica = Awaited<ReturnType<typeof openReplica>>;
