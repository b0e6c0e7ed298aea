import type { MemoryItem } from '@signalbox/contracts/memory-writes';
import { readValue } from '@signalbox/contracts/validate';
import { fault } from '@signalbox/faults/fault';
import type { Outbox, OutgoingMessage } from '@signalbox/messaging/messaging';
import { toRecord } from '@signalbox/messaging/outgoing';
import { sqlState } from '@signalbox/postgres/classify-error';
import type { Database, Queryable } from '@signalbox/postgres/database';
import { currentTraceparent } from '@signalbox/telemetry/trace';
import type { Lease, WorkItem } from '@signalbox/work/worker';
import { serviceName } from './service-name.ts';

/** A write, or without an item a deletion, of a memory. */
export interface Change {
  readonly tenant: string;
  readonly memoryId: string;
  /** Hex of SHA-256. */
  readonly idempotencyKey: string;
  /** The id is derived from the key: nothing can have been written under it before. */
  readonly isFirst: boolean;
  readonly item: MemoryItem | undefined;
}

export interface Stored {
  /** Place in the batch, from 0. */
  readonly place: number;
  readonly version: number;
  /** Of the work row, where the memory is to be pushed. */
  readonly pushId: string | undefined;
}

/** A version on its way to the memory backend. */
export interface Push {
  readonly tenant: string;
  readonly memoryId: string;
  readonly version: number;
}

export interface PushContent {
  readonly idempotencyKey: string;
  /** Undefined: the memory is to be forgotten. @throws INTERNAL_ERROR for one that this release does not read. */
  readonly item: () => MemoryItem | undefined;
}

export interface MemoryStore {
  /**
   * Stores changes in the caller's transaction, in their order, and answers those that had an effect.
   * Faults: DATABASE_UNAVAILABLE; with details.kind `conflict` when another transaction was first with one of them.
   */
  store(tx: Queryable, changes: readonly Change[], toBePushed: boolean): Promise<Stored[]>;
  /** What these versions say, by place; undefined for one that is not waiting any more. */
  contents(pushes: readonly Push[]): Promise<(PushContent | undefined)[]>;
  /**
   * The backend has it: state, end of the work and the record in one transaction, then the record's fast path. Faults:
   * LEASE_LOST (nothing happened), DATABASE_UNAVAILABLE (may have happened: repeat it, or push again).
   */
  finish(item: WorkItem, lease: Lease, version: number, message: OutgoingMessage): Promise<void>;
  /** It has failed for good: the same with what people are told. */
  fail(item: WorkItem, lease: Lease, version: number, why: string, message: OutgoingMessage): Promise<void>;
  backlog(): Promise<{ readonly waiting: number; readonly failed: number }>;
  /** Deletes rows of versions that were superseded so long ago; answers how many. */
  forget(olderThanMs: number, limit: number): Promise<number>;
}

interface PutColumns {
  readonly id: string;
  readonly fast: boolean;
  readonly prev_id: string | null;
}

const named = (name: string, parameters: string, columns = '*') => ({
  name: `memory_sync_${name}`,
  text: `select ${columns} from memory_sync.${name}(${parameters})`,
});
const put = 'id, fast, prev_id';
const store = named(
  'store',
  '$1, $2::text[], $3::uuid[], $4::text[], $5::boolean[], $6::boolean[], $7::jsonb',
);
const toPush = named('to_push', '$1::text[], $2::uuid[], $3::int[]');
const finishPush = named('finish_push', '$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12', put);
const failPush = named('fail_push', '$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13', put);
const backlog = named('backlog', '');
const forget = named('forget_superseded', '$1, $2');
const uniqueViolation = '23505';

export function memoryStore(
  database: Database,
  outbox: Pick<Outbox, 'writer' | 'committed' | 'failed'>,
): MemoryStore {
  /** Runs a function whose last parameters are the outbox's, and tells the outbox what it has put. */
  async function send(
    message: OutgoingMessage,
    run: (columns: readonly unknown[]) => Promise<PutColumns[]>,
  ): Promise<void> {
    const { topic, key, tenant, eventId } = message;
    const { headers, value } = toRecord(message, currentTraceparent(), serviceName);
    const columns = [outbox.writer, [topic], [key], [eventId], JSON.stringify([headers]), [value]];
    const rows = await run(columns).catch((error: unknown) => {
      outbox.failed([message], error);
      throw error;
    });
    const record = { topic, key, tenant, eventId, headers, value };
    outbox.committed(rows.map(({ id, fast, prev_id: prevId }) => ({ id, fast, prevId, ...record })));
  }

  const held = ({ tenant, key, id }: WorkItem, { owner, fence }: Lease, version: number) => [
    ...[tenant, key, owner, fence, id, version],
  ];

  return {
    async store(tx, changes, toBePushed) {
      const values = [
        toBePushed,
        changes.map(({ tenant }) => tenant),
        changes.map(({ memoryId }) => memoryId),
        changes.map(({ idempotencyKey }) => idempotencyKey),
        changes.map(({ item }) => item === undefined),
        changes.map(({ isFirst }) => isFirst),
        JSON.stringify(changes.map(({ item }) => item ?? null)),
      ];
      const rows = await tx
        .query<{ ord: number; version: number; push_id: string | null }>(store, values)
        .catch((error: unknown) => {
          throw sqlState(error) === uniqueViolation ? raced(error) : error;
        });
      return rows.map(({ ord, version, push_id: pushId }) => ({
        place: ord - 1,
        version,
        pushId: pushId ?? undefined,
      }));
    },
    async contents(pushes) {
      const rows = await database.query<{
        ord: number;
        deleted: boolean;
        idempotency_key: string;
        value: unknown;
      }>(toPush, [
        pushes.map(({ tenant }) => tenant),
        pushes.map(({ memoryId }) => memoryId),
        pushes.map(({ version }) => version),
      ]);
      const found: (PushContent | undefined)[] = pushes.map(() => undefined);
      for (const { ord, deleted, idempotency_key: idempotencyKey, value } of rows) {
        found[ord - 1] = { idempotencyKey, item: () => (deleted ? undefined : itemOf(value)) };
      }
      return found;
    },
    finish: (item, lease, version, message) =>
      send(message, (columns) => database.query(finishPush, [...held(item, lease, version), ...columns])),
    fail: (item, lease, version, why, message) =>
      send(message, (columns) => database.query(failPush, [...held(item, lease, version), why, ...columns])),
    async backlog() {
      const [row] = await database.query<{ waiting: string; failed: string }>(backlog);
      return { waiting: Number(row?.waiting ?? 0), failed: Number(row?.failed ?? 0) };
    },
    async forget(olderThanMs, limit) {
      const [row] = await database.query<{ forget_superseded: number }>(forget, [olderThanMs, limit]);
      return row?.forget_superseded ?? 0;
    },
  };
}

/** Checked again on the way out: an older release may have stored it. */
function itemOf(value: unknown): MemoryItem {
  const [item] = readValue('memory.writes', 'memory.write_requested', { memories: [value] })?.memories ?? [];
  if (item === undefined) throw fault('INTERNAL_ERROR', 'a stored memory is not one that this release reads');
  return item;
}

/** Another transaction took the version or the key first: the same call sees it in its next try. */
function raced(cause: unknown): Error {
  return fault('DATABASE_UNAVAILABLE', 'another transaction was first with one of these memories', {
    cause,
    details: { kind: 'conflict', outcome: 'none' },
  });
}
