import type { RecordHeaders } from '@signalbox/contracts/headers';
import type { TopicName } from '@signalbox/contracts/topics';
import { fault } from '@signalbox/faults/fault';
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
   * Before the first direct record of a turn: sends what others have left unsent of the key, in order (delivery rule 19).
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
