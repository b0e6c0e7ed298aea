import type { TopicName } from '@signalbox/contracts/topics';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import type { Messaging } from '@signalbox/messaging/messaging';
import type { MessagingMetrics } from '@signalbox/messaging/messaging-metrics';
import { deleteRows, givenUpChannel, type StoredRow, staleRows } from '@signalbox/messaging/outbox-sql';
import type { RefusedRows } from '@signalbox/messaging/refused-rows';
import { sendRow } from '@signalbox/messaging/row-sending';
import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { sleep } from './slot-lease.ts';

export interface RelayOptions {
  readonly database: Database;
  readonly messaging: Pick<Messaging, 'producer' | 'missingTopics'>;
  readonly refusedRows: RefusedRows;
  /** Slots held now. */
  readonly slots: () => readonly number[];
  readonly pollMs: number;
  readonly staleMs: number;
  readonly log: Logger;
  readonly metrics: MessagingMetrics;
}

export interface Relay {
  /** Publishes until the signal. */
  run(signal: AbortSignal): Promise<void>;
  /** When the loop last went round, in seconds since 1970. */
  readonly lastRoundTimestamp: number;
}

/** Two shares of the slots side by side: one reads and deletes while the other's rows are on their way. */
const shares = 2;
const rowsARead = 2_048;
/** The rows of one read must be acknowledged within this, or they are taken back and read again. */
const sendBoundMs = 5_000;
/** How long rows of a missing topic are left out, so that those of other topics are not held up behind them. */
const missingMs = 5_000;

/**
 * Publishes what the fast paths could not: the rows of stale keys, each key from its lowest row on and without a gap,
 * then deletes them by id. No transaction is open while sending. A relay that stalls between reading and sending repeats
 * rows that another one has sent since: copies after the first, never the first ones out of order.
 */
export function createRelay(options: RelayOptions): Relay {
  const { database, pollMs, log } = options;
  let lastRoundAt = Date.now();
  let missing: { readonly topics: readonly TopicName[]; readonly until: number } = { topics: [], until: 0 };
  const wakers = new Set<() => void>();
  /** Notifications so far: one that comes during a round must not be slept over. */
  let notified = 0;

  async function runShare(share: number, signal: AbortSignal): Promise<void> {
    const sent = new Map<bigint, StoredRow>();
    while (!signal.aborted) {
      let found = 0;
      const notifiedBefore = notified;
      try {
        found = await round(share, sent, signal);
        lastRoundAt = Date.now();
      } catch (error) {
        log.warning('relay.round_failed', { error });
        await sleep(pollMs, signal);
      }
      if (found === 0 && notified === notifiedBefore) await rest(signal);
    }
  }

  /** One read of the share's slots, sent and deleted. Returns how many rows it has got rid of. */
  async function round(share: number, sent: Map<bigint, StoredRow>, signal: AbortSignal): Promise<number> {
    await forget(sent);
    const slots = options.slots().filter((slot) => slot % shares === share);
    if (slots.length === 0) return 0;
    const notTopics = performance.now() < missing.until ? missing.topics : [];
    const read = await staleRows(database, slots, options.staleMs, rowsARead, notTopics);
    const rows = read.filter((row) => !options.refusedRows.has(row.id));
    if (rows.length === 0) return 0;
    const acknowledged = await send(rows, signal);
    for (const row of acknowledged) sent.set(row.id, row);
    if (acknowledged.length > 0) failPoint('relay.sent');
    await forget(sent);
    if (acknowledged.length < rows.length) {
      log.warning('relay.not_acknowledged', { rows: rows.length - acknowledged.length });
      await lookForMissing();
    }
    return acknowledged.length;
  }

  /** Deletes what is acknowledged. Until that has worked nothing else is read: these rows would be sent again. */
  async function forget(sent: Map<bigint, StoredRow>): Promise<void> {
    if (sent.size === 0) return;
    await deleteRows(database, [...sent.values()]);
    sent.clear();
  }

  /** Queues the rows and waits for the answers; those without one in time are taken back. */
  function send(rows: readonly StoredRow[], signal: AbortSignal): Promise<StoredRow[]> {
    const acknowledged: StoredRow[] = [];
    let open = rows.length;
    return new Promise((resolve) => {
      const settle = () => {
        open -= 1;
        if (open === 0) end();
      };
      const sendings = rows.map((row) =>
        sendRow(row, 'relay', {
          sent: () => {
            options.metrics.published('relay', 'ok');
            options.metrics.publishSeconds(Math.max(Date.now() - row.enqueuedAt.getTime(), 0) / 1_000);
            acknowledged.push(row);
            settle();
          },
          refused: (reason) => {
            options.metrics.published('relay', 'refused');
            options.refusedRows.add(row, reason);
            settle();
          },
        }),
      );
      const timer = setTimeout(end, sendBoundMs);
      signal.addEventListener('abort', end, { once: true });
      function end(): void {
        clearTimeout(timer);
        signal.removeEventListener('abort', end);
        for (const sending of sendings) sending.withdrawn = true;
        resolve(acknowledged);
      }
      for (const sending of sendings) options.messaging.producer.enqueue(sending);
    });
  }

  /** A topic that is missing blocks the queue for all: its rows are left out for a while. A broker away blocks nobody. */
  async function lookForMissing(): Promise<void> {
    const topics = await options.messaging.missingTopics().catch(() => []);
    if (topics.length > 0) log.error('relay.topics_missing', { topics });
    missing = { topics, until: performance.now() + missingMs };
  }

  /** Until the poll is due or somebody has given rows up. */
  async function rest(signal: AbortSignal): Promise<void> {
    const controller = new AbortController();
    const wake = () => controller.abort();
    wakers.add(wake);
    await sleep(pollMs, AbortSignal.any([signal, controller.signal]));
    wakers.delete(wake);
  }

  return {
    async run(signal) {
      // A hint only, on a connection of its own; what it misses the poll finds.
      database.listen(
        givenUpChannel,
        () => {
          notified += 1;
          for (const wake of wakers) wake();
        },
        signal,
      );
      await Promise.all(Array.from({ length: shares }, (_, share) => runShare(share, signal)));
    },
    get lastRoundTimestamp() {
      return lastRoundAt / 1_000;
    },
  };
}
