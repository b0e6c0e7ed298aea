import type { RecordHeaders } from '@signalbox/contracts/headers';
import type { TopicName } from '@signalbox/contracts/topics';
import type { Queryable } from '@signalbox/postgres/database';
import type { PlainRecord } from './outgoing.ts';

/** A record with its tenant and the id that receivers know it by, ready to be a row. */
export interface OutboxRecord extends PlainRecord {
  readonly tenant: string;
  readonly eventId: string;
}

export interface PutRow {
  readonly id: bigint;
  readonly fast: boolean;
  readonly prevId: bigint | undefined;
}

/** A row as the relay and an adopter read it. */
export interface StoredRow {
  readonly tenant: string;
  readonly id: bigint;
  readonly topic: TopicName;
  readonly key: string;
  readonly eventId: string;
  readonly headers: RecordHeaders;
  readonly value: Buffer | null;
  readonly enqueuedAt: Date;
}

interface RawPutRow {
  readonly id: string;
  readonly fast: boolean;
  readonly prev_id: string | null;
}

interface RawStoredRow {
  readonly tenant: string;
  readonly id: string;
  readonly topic: TopicName;
  readonly key: string;
  readonly event_id: string;
  readonly headers: RecordHeaders;
  readonly value: Buffer | null;
  readonly enqueued_at: Date;
}

/** Channel on which a process says that it has given rows up. */
export const givenUpChannel = 'signalbox_outbox';

/** Inserts the records as rows, in their order, within the caller's transaction. */
export async function putRows(
  tx: Queryable,
  writer: string | null,
  records: readonly OutboxRecord[],
): Promise<PutRow[]> {
  const rows = await tx.query<RawPutRow>(
    {
      name: 'outbox_put_all',
      text: `select id, fast, prev_id
             from messaging.outbox_put_all($1::uuid, $2::text[], $3::text[], $4::text[], $5::uuid[], $6::jsonb, $7::bytea[])`,
    },
    [
      writer,
      records.map((record) => record.tenant),
      records.map((record) => record.topic),
      records.map((record) => record.key),
      records.map((record) => record.eventId),
      JSON.stringify(records.map((record) => record.headers)),
      records.map((record) => record.value),
    ],
  );
  return rows.map((row) => ({
    id: BigInt(row.id),
    fast: row.fast,
    prevId: row.prev_id === null ? undefined : BigInt(row.prev_id),
  }));
}

export async function deleteRows(
  database: Queryable,
  rows: readonly { readonly tenant: string; readonly id: bigint }[],
): Promise<void> {
  await database.query(
    { name: 'outbox_delete', text: 'select messaging.outbox_delete($1::text[], $2::bigint[])' },
    [rows.map((row) => row.tenant), rows.map((row) => row.id.toString())],
  );
}

/** Gives keys up, each from one row on; the ids of the rows that are the relay's now. At most 256 keys. */
export async function giveUpRows(
  database: Queryable,
  writer: string,
  keys: readonly { readonly topic: TopicName; readonly key: string; readonly fromId: bigint }[],
): Promise<bigint[]> {
  const rows = await database.query<{ id: string }>(
    'select id from messaging.outbox_give_up($1::uuid, $2::text[], $3::text[], $4::bigint[])',
    [
      writer,
      keys.map((each) => each.topic),
      keys.map((each) => each.key),
      keys.map((each) => each.fromId.toString()),
    ],
  );
  return rows.map((row) => BigInt(row.id));
}

/** The rows of a key that others have written or given up, lowest first. */
export async function foreignRows(
  database: Queryable,
  writer: string,
  topic: TopicName,
  key: string,
  limit: number,
): Promise<StoredRow[]> {
  const rows = await database.query<RawStoredRow>(
    {
      name: 'outbox_foreign_rows',
      text: 'select * from messaging.outbox_foreign_rows($1::uuid, $2::text, $3::text, $4::int) order by id',
    },
    [writer, topic, key, limit],
  );
  return rows.map(storedRow);
}

/** The rows of the stale keys of these slots; each key's rows in id order. */
export async function staleRows(
  database: Queryable,
  slots: readonly number[],
  olderThanMs: number,
  limit: number,
  notTopics: readonly string[],
): Promise<StoredRow[]> {
  const rows = await database.query<RawStoredRow>(
    {
      name: 'outbox_stale',
      text: 'select * from messaging.outbox_stale($1::smallint[], $2::int, $3::int, $4::text[])',
    },
    [slots, olderThanMs, limit, notTopics],
  );
  return rows.map(storedRow);
}

export async function leaseSlots(database: Queryable, owner: string, leaseMs: number): Promise<number[]> {
  const rows = await database.query<{ slots: number[] }>(
    'select messaging.outbox_lease($1::uuid, $2::int) as slots',
    [owner, leaseMs],
  );
  return rows[0]?.slots ?? [];
}

export async function releaseSlots(database: Queryable, owner: string): Promise<void> {
  await database.query('select messaging.outbox_release($1::uuid)', [owner]);
}

/** Rows that wait (counted up to `bound`) and the age of the oldest of them. */
export async function outboxLoad(
  database: Queryable,
  bound: number,
): Promise<{ pending: number; oldestSeconds: number }> {
  const rows = await database.query<{ pending: string; oldest_seconds: number }>(
    'select pending, oldest_seconds from messaging.outbox_load($1::int)',
    [bound],
  );
  return { pending: Number(rows[0]?.pending ?? 0), oldestSeconds: rows[0]?.oldest_seconds ?? 0 };
}

export async function notifyGivenUp(database: Queryable): Promise<void> {
  await database.query(`notify ${givenUpChannel}`);
}

function storedRow(row: RawStoredRow): StoredRow {
  return {
    tenant: row.tenant,
    id: BigInt(row.id),
    topic: row.topic,
    key: row.key,
    eventId: row.event_id,
    headers: row.headers,
    value: row.value,
    enqueuedAt: row.enqueued_at,
  };
}
