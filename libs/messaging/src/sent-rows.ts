import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { deleteRows } from './outbox-sql.ts';

interface Row {
  readonly tenant: string;
  readonly id: bigint;
}

const gatherMs = 20;
const batchRows = 1_000;
/** While the database is away; past it sent rows stay for the relay, which sends them again: repeats, no loss. */
const maxKept = 50_000;

/** Deletes sent rows in batches, one statement in flight. */
export class SentRows {
  readonly #database: Database;
  readonly #log: Logger;
  #kept: Row[] = [];
  #timer: NodeJS.Timeout | undefined;
  #deleting: Promise<void> | undefined;

  constructor(database: Database, log: Logger) {
    this.#database = database;
    this.#log = log;
  }

  get length(): number {
    return this.#kept.length;
  }

  add(row: Row): void {
    if (this.#kept.length >= maxKept) return;
    this.#kept.push(row);
    if (this.#kept.length >= batchRows && this.#deleting === undefined) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      void this.#delete();
    } else if (this.#timer === undefined && this.#deleting === undefined) {
      this.#timer = setTimeout(() => void this.#delete(), gatherMs);
    }
  }

  /** Deletes what there is; ends without an error when the database is away or at the signal. */
  async flush(signal: AbortSignal): Promise<void> {
    while (!signal.aborted && (this.#kept.length > 0 || this.#deleting !== undefined)) {
      const before = this.#kept.length;
      await Promise.race([this.#deleting ?? this.#delete(), aborted(signal)]);
      if (this.#kept.length >= before && before > 0) return;
    }
  }

  #delete(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const batch = this.#kept.splice(0, batchRows);
    if (batch.length === 0) return Promise.resolve();
    this.#deleting = deleteRows(this.#database, batch)
      .then(
        () => 0,
        (error: unknown) => {
          this.#log.warning('outbox.delete_failed', { error, rows: batch.length });
          this.#kept = batch.concat(this.#kept);
          return 1_000;
        },
      )
      .then((waitMs) => {
        this.#deleting = undefined;
        if (this.#kept.length > 0) {
          this.#timer ??= setTimeout(
            () => void this.#delete(),
            this.#kept.length >= batchRows ? waitMs : waitMs + gatherMs,
          );
        }
      });
    return this.#deleting;
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
