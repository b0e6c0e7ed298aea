import { headerNames } from '@signalbox/contracts/headers';
import type { Fault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { fileDeadLetter } from './dead-letters.ts';
import { deleteRows, type OutboxRecord, putRows } from './outbox-sql.ts';
import { toRecord } from './outgoing.ts';

type Row = OutboxRecord & { readonly id: bigint };

const firstRetryMs = 250;
const maxRetryMs = 10_000;

/** Rows that the broker has refused alone: each becomes a dead letter and leaves the outbox in one transaction. */
export class RefusedRows {
  readonly #database: Database;
  readonly #log: Logger;
  readonly #pending = new Map<bigint, Promise<void>>();
  #closed = false;

  constructor(database: Database, log: Logger) {
    this.#database = database;
    this.#log = log;
  }

  /** Keeps trying until it is stored; should the process die before, the relay meets the row and does the same. */
  add(row: Row, reason: Fault): void {
    if (this.#pending.has(row.id)) return;
    const filing = this.#file(row, reason).finally(() => this.#pending.delete(row.id));
    this.#pending.set(row.id, filing);
  }

  /** Whether the row waits to become a dead letter. */
  has(id: bigint): boolean {
    return this.#pending.has(id);
  }

  async settled(): Promise<void> {
    await Promise.all(this.#pending.values());
  }

  close(): void {
    this.#closed = true;
  }

  async #file(row: Row, reason: Fault): Promise<void> {
    for (let delayMs = firstRetryMs; !this.#closed; delayMs = Math.min(delayMs * 2, maxRetryMs)) {
      try {
        await this.#database.transaction(async (tx) => {
          const message = await fileDeadLetter(tx, {
            tenant: row.tenant,
            topic: row.topic,
            partition: -1,
            offset: row.id,
            timestampMs: 0,
            consumer: 'outbox',
            reason: 'broker_refused',
            detail: reason.message,
            attempts: 1,
            key: Buffer.from(row.key, 'utf8'),
            eventId: row.eventId,
            headers: row.headers,
            value: row.value,
            traceparent: row.headers[headerNames.traceparent],
          });
          if (message !== undefined) {
            const record = toRecord(message, undefined, 'outbox');
            await putRows(tx, null, [{ ...record, tenant: row.tenant, eventId: message.eventId }]);
          }
          await deleteRows(tx, [row]);
        });
        return;
      } catch (error) {
        this.#log.error('outbox.dead_letter_failed', { error, topic: row.topic });
        await pause(delayMs, undefined, { unref: true });
      }
    }
  }
}
