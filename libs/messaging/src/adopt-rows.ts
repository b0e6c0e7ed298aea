import type { TopicName } from '@signalbox/contracts/topics';
import { fault } from '@signalbox/faults/fault';
import type { Database } from '@signalbox/postgres/database';
import type { MessagingMetrics } from './messaging-metrics.ts';
import { foreignRows, type StoredRow } from './outbox-sql.ts';
import type { Producer, Sending } from './producer.ts';
import type { RefusedRows } from './refused-rows.ts';
import { sendRow } from './row-sending.ts';
import type { SentRows } from './sent-rows.ts';

export interface Adopting {
  readonly database: Database;
  readonly producer: Producer;
  readonly sentRows: SentRows;
  readonly refusedRows: RefusedRows;
  readonly writer: string;
  readonly metrics: MessagingMetrics;
}

const rowsARead = 256;
const boundMs = 10_000;

/**
 * Sends the rows of one key that other writers have left, lowest first, waits for the answers and deletes them, until
 * there are none. The writer of such a row may be alive and send it as well, and so may the relay: a repeat.
 * @throws KAFKA_UNAVAILABLE when it takes longer than 10 s, DATABASE_UNAVAILABLE.
 */
export async function adoptRows(adopting: Adopting, topic: TopicName, key: string): Promise<void> {
  const { database, writer, sentRows } = adopting;
  const end = performance.now() + boundMs;
  const done = new Set<bigint>();
  for (;;) {
    const found = await foreignRows(database, writer, topic, key, rowsARead);
    // A row that was sent here and is not deleted yet, or that waits to become a dead letter, is not sent again.
    const rows = found.filter((row) => !done.has(row.id));
    if (rows.length === 0) return;
    const leftMs = Math.ceil(end - performance.now());
    if (leftMs <= 0) throw late();
    await sendAll(adopting, rows, leftMs);
    for (const row of rows) done.add(row.id);
    // Until they are gone every later row of the key would be the relay's.
    await sentRows.flush(AbortSignal.timeout(Math.max(Math.ceil(end - performance.now()), 1)));
  }
}

/** Resolves when each row is acknowledged or refused; takes back what is not when the time is over. */
function sendAll(adopting: Adopting, rows: readonly StoredRow[], withinMs: number): Promise<void> {
  const { producer, sentRows, refusedRows, metrics } = adopting;
  return new Promise((resolve, reject) => {
    const sendings: Sending[] = [];
    const timer = setTimeout(() => {
      for (const sending of sendings) sending.withdrawn = true;
      reject(late());
    }, withinMs);
    let open = rows.length;
    const settle = () => {
      open -= 1;
      if (open > 0) return;
      clearTimeout(timer);
      resolve();
    };
    for (const row of rows) {
      const sending = sendRow(row, 'adopt', {
        sent: () => {
          metrics.published('adopt', 'ok');
          sentRows.add(row);
          settle();
        },
        refused: (reason) => {
          metrics.published('adopt', 'refused');
          refusedRows.add(row, reason);
          settle();
        },
      });
      sendings.push(sending);
      producer.enqueue(sending);
    }
  });
}

function late(): Error {
  return fault('KAFKA_UNAVAILABLE', 'the rows of the key could not be sent in time');
}
