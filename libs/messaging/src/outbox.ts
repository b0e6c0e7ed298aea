import type { RecordHeaders } from '@signalbox/contracts/headers';
import type { TopicName } from '@signalbox/contracts/topics';
import { asFault, fault } from '@signalbox/faults/fault';
import type { Database, Transaction } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { currentTraceparent } from '@signalbox/telemetry/trace';
import type { FastPath } from './fast-path.ts';
import { outboxLoad, putRows } from './outbox-sql.ts';
import { type OutgoingMessage, toRecord } from './outgoing.ts';
import type { Producer } from './producer.ts';

/** A row that a service's own SQL function has put, as messaging.outbox_put returned it. int8 columns may be text. */
export interface PutResult {
  readonly id: bigint | number | string;
  readonly fast: boolean;
  readonly prevId: bigint | number | string | null | undefined;
  readonly topic: TopicName;
  readonly key: string;
  readonly tenant: string;
  readonly eventId: string;
  readonly headers: RecordHeaders;
  readonly value: Buffer | null;
}

export interface Outbox {
  /**
   * What to pass as the writer of rows: this process, or null while the broker has been away for longer than the fast
   * path waits, so that rows go to the relay at once.
   */
  readonly writer: string | null;
  /** Puts the messages as rows of the transaction, in their order; after the commit they are published. */
  put(tx: Transaction, messages: readonly OutgoingMessage[]): Promise<void>;
  /** For rows that the service's own SQL function has put; call it right after the commit, rows of a key in id order. */
  committed(rows: readonly PutResult[]): void;
  /**
   * For the statement of such a function that failed with this error: when its outcome is unknown, its rows may be there.
   * They are left to the relay, and no direct record of their key goes out before them.
   */
  failed(rows: readonly { readonly topic: TopicName; readonly key: string }[], error: unknown): void;
  /**
   * Whether this process has queued its own row `lastOwnRow`, the last that the outbox holds of the key (null: it holds
   * none). One that it does not know is one whose commit was not answered, or not yet: `adopt` sends it.
   */
  knows(topic: TopicName, key: string, lastOwnRow: number | string | null): boolean;
  /**
   * Before the first direct record of a turn: sends what others have left unsent of the key, and rows of its own that this
   * process does not know, in order (delivery rule 19).
   * Faults: DATABASE_UNAVAILABLE, KAFKA_UNAVAILABLE, ABORTED.
   */
  adopt(topic: TopicName, key: string, signal?: AbortSignal): Promise<void>;
  /** Rows that wait in the whole outbox, as of about a second ago; undefined while it cannot be read. */
  readonly load: { readonly pending: number; readonly oldestSeconds: number } | undefined;
  /** Whether accepts must be refused (OUTBOX_FULL): more than OUTBOX_MAX_ROWS wait. */
  readonly full: boolean;
  /** Waits until this process has published its rows, or the signal; the rest is left to the relay. Part of the stop. */
  drain(signal: AbortSignal): Promise<void>;
}

export interface OutboxOptions {
  readonly database: Database;
  readonly producer: Producer;
  readonly fastPath: FastPath;
  readonly instanceId: string;
  readonly service: string;
  readonly maxRows: number;
  readonly maxAgeMs: number;
  readonly log: Logger;
}

const loadEveryMs = 1_000;

export function createOutbox(options: OutboxOptions): Outbox & { close(): void } {
  const { database, producer, fastPath, instanceId, service, maxRows, maxAgeMs, log } = options;
  let load: { pending: number; oldestSeconds: number } | undefined;
  let reading = false;
  const poll = setInterval(() => {
    if (reading) return;
    reading = true;
    outboxLoad(database, maxRows + 1)
      .then(
        (read) => {
          load = read;
        },
        (error: unknown) => {
          load = undefined; // an old figure would say that nothing changes while the database is away
          log.debug('outbox.load_unknown', { error });
        },
      )
      .finally(() => {
        reading = false;
      });
  }, loadEveryMs).unref();

  return {
    get writer() {
      return producer.failingForMs > maxAgeMs ? null : instanceId;
    },
    async put(tx, messages) {
      if (messages.length === 0) return;
      const traceparent = currentTraceparent();
      const records = messages.map((message) => ({
        ...toRecord(message, traceparent, service),
        tenant: message.tenant,
        eventId: message.eventId,
      }));
      const rows = await putRows(tx, this.writer, records);
      tx.afterRollback((outcome) => {
        if (outcome === 'unknown') fastPath.unanswered(records);
      });
      tx.afterCommit(() =>
        fastPath.committed(
          records.map((record, i) => {
            const row = rows[i];
            if (row === undefined)
              throw fault('INTERNAL_ERROR', 'outbox_put_all returned fewer rows than it got');
            return { ...record, ...row };
          }),
        ),
      );
    },
    committed(rows) {
      fastPath.committed(
        rows.map((row) => ({
          ...row,
          id: BigInt(row.id),
          prevId: row.prevId === null || row.prevId === undefined ? undefined : BigInt(row.prevId),
        })),
      );
    },
    failed(rows, error) {
      if (asFault(error).details?.outcome === 'unknown') fastPath.unanswered(rows);
    },
    knows: (topic, key, lastOwnRow) => lastOwnRow === null || fastPath.knows(topic, key, BigInt(lastOwnRow)),
    adopt: (topic, key, signal) => fastPath.adopt(topic, key, signal),
    get load() {
      return load;
    },
    get full() {
      return load !== undefined && load.pending > maxRows;
    },
    drain: (signal) => fastPath.drain(signal),
    close: () => clearInterval(poll),
  };
}
