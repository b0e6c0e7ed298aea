import type { RecordHeaders } from '@signalbox/contracts/headers';
import { newId } from '@signalbox/contracts/ids';
import type { TopicName } from '@signalbox/contracts/topics';
import { fault } from '@signalbox/faults/fault';
import type { Database, Queryable, Transaction } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { attribute, failSpan, parseTraceparent, startSpan, traceparentOf } from '@signalbox/telemetry/trace';
import { type Correction, replayRecord } from './dead-letter-replay.ts';
import type { DeadLetterReason } from './dead-letters.ts';
import { notifyGivenUp, putRows } from './outbox-sql.ts';

export type { Correction } from './dead-letter-replay.ts';
export { unknownTenant } from './dead-letters.ts';

export type DeadLetterState = 'waiting' | 'replayed' | 'all';

/** A dead letter without anything that people may have written. */
export interface DeadLetterSummary {
  readonly id: string;
  readonly topic: TopicName;
  /** Where the record lies; undefined for an outbox row that the broker refused, which never was one. */
  readonly place:
    | { readonly partition: number; readonly offset: bigint; readonly timestamp: Date }
    | undefined;
  /** The consumer group, or `outbox`. */
  readonly consumer: string;
  readonly reason: DeadLetterReason;
  readonly attempts: number;
  readonly key: string | null;
  readonly eventId: string | null;
  readonly eventType: string | null;
  /** The event that this one was a replay of: the chain of tries. */
  readonly replayOf: string | null;
  readonly valueBytes: number | null;
  readonly createdAt: Date;
  readonly replayedAt: Date | null;
  readonly replayedAs: string | null;
}

/** A whole dead letter: everything that a replay needs. */
export interface StoredDeadLetter extends DeadLetterSummary {
  readonly tenant: string;
  readonly detail: string;
  readonly headers: RecordHeaders;
  readonly value: Buffer | null;
  readonly traceparent: string | null;
  readonly replayedBy: string | null;
}

export interface DeadLetterPage {
  readonly tenant: string;
  readonly topic?: TopicName | undefined;
  readonly state: DeadLetterState;
  /** Id of a dead letter: those filed before it. */
  readonly before?: string | undefined;
  readonly limit: number;
}

/** One dead letter of a tenant; with a topic it is not found under another. */
export interface DeadLetterRef {
  readonly tenant: string;
  readonly topic?: TopicName | undefined;
  readonly id: string;
}

export interface ReplayOrder extends DeadLetterRef {
  /** Who asks, for the row and the log: `key:<key id>`, `operator:<role>`. */
  readonly by: string;
  /** The service that replays, for the header `ce_source`. */
  readonly source: string;
  readonly correction?: Correction | undefined;
  /** The trace of who asks; the active span's when it is left out. */
  readonly traceparent?: string | undefined;
}

export interface Replayed {
  readonly eventId: string;
  readonly replayOf: string;
  readonly topic: TopicName;
  readonly key: string;
}

/** What waits of a tenant and topic, for operators. */
export interface DeadLetterOverview {
  readonly tenant: string;
  readonly topic: string;
  readonly reason: string;
  readonly waiting: number;
  readonly oldest: Date;
  readonly newest: Date;
}

export interface DeadLetters {
  /** Newest first. */
  list(page: DeadLetterPage): Promise<DeadLetterSummary[]>;
  get(ref: DeadLetterRef): Promise<StoredDeadLetter | undefined>;
  /**
   * Puts the record into the outbox of its topic as a new event, within the caller's transaction: it comes behind all
   * that was put for its key before and ahead of all that is put after. Once: a dead letter that was replayed is done, and
   * a replay that is poison too is a dead letter of its own, which names this one. The relay sends it.
   *
   * Its trace is that of whoever asks, with a span that is linked to the trace in which the record failed.
   *
   * Faults: NOT_FOUND, CONFLICT (replayed before, or a piece of text), VALIDATION_ERROR, BODY_TOO_LARGE.
   */
  replay(tx: Transaction, order: ReplayOrder): Promise<Replayed>;
  /** Deletes one; false when it is not there. */
  purge(tx: Transaction, ref: DeadLetterRef & { readonly by: string }): Promise<boolean>;
  /** Deletes those of a topic put aside before a time, replayed or not, oldest first. Resolves with how many, ≤ limit. */
  purgeBefore(
    tx: Transaction,
    what: {
      readonly tenant: string;
      readonly topic: TopicName;
      readonly before: Date;
      readonly limit: number;
      readonly by: string;
    },
  ): Promise<number>;
  /** What waits, over all tenants. Needs the rights of an operator: no service has them. */
  overview(): Promise<DeadLetterOverview[]>;
}

interface SummaryRow {
  readonly id: string;
  readonly topic: TopicName;
  readonly partition: number;
  readonly record_offset: string;
  readonly record_time: Date;
  readonly consumer: string;
  readonly reason: DeadLetterReason;
  readonly attempts: number;
  readonly key: string | null;
  readonly event_id: string | null;
  readonly event_type: string | null;
  readonly replay_of: string | null;
  readonly value_bytes: number | null;
  readonly created_at: Date;
  readonly replayed_at: Date | null;
  readonly replayed_as: string | null;
}

interface WholeRow extends Omit<SummaryRow, 'event_type' | 'replay_of' | 'value_bytes'> {
  readonly tenant: string;
  readonly detail: string;
  readonly headers: RecordHeaders;
  readonly value: Buffer | null;
  readonly traceparent: string | null;
  readonly replayed_by: string | null;
}

const listStatement = {
  name: 'dead_letter_list',
  text: 'select * from messaging.dead_letter_list($1::text, $2::text, $3::text, $4::uuid, $5::int)',
};
const getStatement = {
  name: 'dead_letter_get',
  text: 'select * from messaging.dead_letter_get($1::text, $2::text, $3::uuid)',
};
const lockStatement = {
  name: 'dead_letter_lock',
  text: 'select * from messaging.dead_letter_lock($1::text, $2::text, $3::uuid)',
};

/** The dead letters of a database. */
export function deadLetters(database: Database, log: Logger): DeadLetters {
  return {
    async list({ tenant, topic, state, before, limit }) {
      const values = [tenant, topic ?? null, state, before ?? null, limit];
      return (await database.query<SummaryRow>(listStatement, values)).map(summary);
    },
    get: (ref) => one(database, getStatement, ref),
    async replay(tx, order) {
      const letter = await one(tx, lockStatement, order);
      if (letter === undefined) throw noDeadLetter();
      const { replayedAt, replayedAs, topic } = letter;
      if (replayedAt !== null) {
        throw fault('CONFLICT', `it was replayed at ${replayedAt.toISOString()} as event ${replayedAs}`);
      }
      const eventId = newId();
      const failed = parseTraceparent(letter.traceparent ?? undefined);
      const span = startSpan(`replay ${topic}`, {
        kind: 'producer',
        parent: order.traceparent,
        ...(failed === undefined ? {} : { links: [failed] }),
        attributes: {
          'messaging.system': 'kafka',
          'messaging.destination.name': topic,
          'signalbox.dead_letter_id': letter.id,
          [attribute.eventId]: eventId,
          [attribute.tenantId]: letter.tenant,
        },
      });
      try {
        const ids = { eventId, traceparent: traceparentOf(span), source: order.source };
        const record = replayRecord(letter, order.correction ?? {}, ids);
        await putRows(tx, null, [record]);
        await tx.query('select messaging.dead_letter_replayed($1::text, $2::uuid, $3::uuid, $4::text)', [
          letter.tenant,
          letter.id,
          eventId,
          order.by,
        ]);
        tx.afterCommit(() => {
          const { id, tenant } = letter;
          const corrected = Object.keys(order.correction ?? {}).length > 0;
          log.info('dead_letter.replayed', {
            topic,
            deadLetterId: id,
            tenant,
            eventId,
            corrected,
            by: order.by,
          });
          // Only a hint: the relay looks by itself, too.
          notifyGivenUp(database).catch(() => undefined);
        });
        return { eventId, replayOf: letter.eventId ?? letter.id, topic, key: record.key };
      } catch (error) {
        failSpan(span, error);
        throw error;
      } finally {
        span.end();
      }
    },
    async purge(tx, { tenant, topic, id, by }) {
      const [row] = await tx.query<{ gone: boolean }>(
        'select messaging.dead_letter_purge($1::text, $2::text, $3::uuid) as gone',
        [tenant, topic ?? null, id],
      );
      if (row?.gone !== true) return false;
      tx.afterCommit(() => log.info('dead_letter.purged', { topic, tenant, deadLetterId: id, count: 1, by }));
      return true;
    },
    async purgeBefore(tx, { tenant, topic, before, limit, by }) {
      const [row] = await tx.query<{ gone: string }>(
        'select messaging.dead_letter_purge_before($1::text, $2::text, $3::timestamptz, $4::int) as gone',
        [tenant, topic, before, limit],
      );
      const count = Number(row?.gone ?? 0);
      if (count > 0) {
        tx.afterCommit(() => {
          log.info('dead_letter.purged', { topic, tenant, before: before.toISOString(), count, by });
        });
      }
      return count;
    },
    async overview() {
      const rows = await database.query<Omit<DeadLetterOverview, 'waiting'> & { waiting: string }>(
        'select * from messaging.dead_letter_overview()',
      );
      return rows.map((row) => ({ ...row, waiting: Number(row.waiting) }));
    },
  };
}

export function noDeadLetter(): Error {
  return fault('NOT_FOUND', 'there is no such dead letter');
}

async function one(
  database: Queryable,
  statement: { readonly name: string; readonly text: string },
  { tenant, topic, id }: DeadLetterRef,
): Promise<StoredDeadLetter | undefined> {
  const [row] = await database.query<WholeRow>(statement, [tenant, topic ?? null, id]);
  if (row === undefined) return undefined;
  const { headers, value, tenant: filedUnder, detail, traceparent, replayed_by: replayedBy } = row;
  return {
    ...summary({
      ...row,
      event_type: headers.event_type ?? null,
      replay_of: headers.replay_of ?? null,
      value_bytes: value?.length ?? null,
    }),
    ...{ tenant: filedUnder, detail, headers, value, traceparent, replayedBy },
  };
}

function summary(row: SummaryRow): DeadLetterSummary {
  return {
    id: row.id,
    topic: row.topic,
    place:
      row.partition < 0
        ? undefined
        : { partition: row.partition, offset: BigInt(row.record_offset), timestamp: row.record_time },
    consumer: row.consumer,
    reason: row.reason,
    attempts: row.attempts,
    key: row.key,
    eventId: row.event_id,
    eventType: row.event_type,
    replayOf: row.replay_of,
    valueBytes: row.value_bytes,
    createdAt: row.created_at,
    replayedAt: row.replayed_at,
    replayedAs: row.replayed_as,
  };
}
