import type { SourceTopicName } from '@signalbox/contracts/topics';
import { asFault, fault } from '@signalbox/faults/fault';
import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { createBatchSize } from './batch-size.ts';
import { fileDeadLetter } from './dead-letters.ts';
import type { IntakeRecord, RecordHead } from './decode-record.ts';
import type { BatchOutcome, BatchProcessor, FetchedBatch } from './fetched-batch.ts';
import { HandlerBound, handlerMs } from './handler-bound.ts';
import { declares } from './intake.ts';
import type { MessagingMetrics } from './messaging-metrics.ts';
import type { Outbox } from './outbox.ts';
import { deadLetterOf, endSpan, type Item, toItem } from './record-batch.ts';
import { settleInOrder } from './settle-batch.ts';

/**
 * Appends records of one partition, in offset order, to stores of its own, each append a no-op when it comes again.
 * A retryable fault means that a store is away; `poisonRecord(offset, why)` that this one record cannot be appended,
 * and that the others of the call may be handed over again.
 */
export type AppendHandler = (
  records: readonly IntakeRecord[],
  context: { readonly signal: AbortSignal },
) => Promise<void>;

/** Records of a partition from the offset `first` to the one before `next`. */
export interface SettledRange {
  readonly partition: number;
  readonly first: bigint;
  readonly next: bigint;
}

/**
 * Told of records whose last one the handler is not given, because it was buried or skipped, so that it knows how far the
 * partition is settled: in order with the handler's calls, and before the offset is finished. What it throws leaves them
 * unsettled: they come again.
 */
export type SettledHandler = (range: SettledRange) => Promise<void>;

export interface AppendOptions {
  readonly topic: SourceTopicName;
  readonly group: string;
  readonly handler: AppendHandler;
  readonly settled: SettledHandler | undefined;
  readonly accepts: ((head: RecordHead) => boolean) | undefined;
  readonly maxBatch: number;
  readonly database: Database;
  readonly outbox: Outbox;
  readonly log: Logger;
  readonly metrics: MessagingMetrics;
}

const buryMs = 3_000;

/** The runner without a transaction: partitions beside each other, each strictly in offset order. */
export function createAppend(options: AppendOptions): BatchProcessor {
  const { topic, log, metrics } = options;
  const size = createBatchSize(options.maxBatch, handlerMs);
  /** By partition: nothing else of a partition is appended beside a handler that is late. */
  const bound = new HandlerBound(topic, log);

  async function append(partition: number, items: readonly Item[]): Promise<void> {
    for (const item of items) item.attempts += 1;
    const bad = items.find(({ content }) => content.kind === 'poison');
    if (bad !== undefined && items.length > 1)
      throw fault('POISON_RECORD', 'poison', { details: { offset: bad.raw.offset } });
    if (bad !== undefined) throw fault('POISON_RECORD', 'poison');
    const records = items.flatMap(({ content }) => (content.kind === 'record' ? [content.record] : []));
    if (records.length > 0) await bound.run(partition, (signal) => options.handler(records, { signal }));
    if (items.at(-1)?.content.kind !== 'record') await tellSettled(partition, items);
    for (const item of items) endSpan(item);
  }

  async function tellSettled(partition: number, items: readonly Item[]): Promise<void> {
    const first = items[0]?.raw.offset;
    const last = items.at(-1)?.raw.offset;
    const { settled } = options;
    if (settled === undefined || first === undefined || last === undefined) return;
    await bound.run(partition, () => settled({ partition, first, next: last + 1n }));
  }

  async function bury(item: Item, error: unknown): Promise<void> {
    const letter = deadLetterOf(topic, options.group, item, error);
    await options.database.transaction(
      async (tx) => {
        const message = await fileDeadLetter(tx, letter);
        if (message !== undefined) await options.outbox.put(tx, [message]);
      },
      { timeoutMs: buryMs },
    );
    await tellSettled(item.partition, [item]);
    metrics.processed(topic, 'poison', 0);
    log.error('consumer.dead_letter', {
      error: asFault(error),
      topic,
      offset: item.raw.offset.toString(),
      reason: letter.reason,
    });
    endSpan(item, error);
  }

  async function process(batch: FetchedBatch): Promise<BatchOutcome> {
    for (let at = 0; at < batch.records.length; ) {
      if (!batch.isCurrent() || (at > 0 && !(await batch.heartbeat()))) break;
      const startedAt = performance.now();
      const spent = () => (performance.now() - startedAt) / 1_000;
      const items = batch.records
        .slice(at, at + size.limit)
        .map((raw) => toItem(topic, batch.partition, raw, options.accepts));
      at += items.length;
      const open = new Set(items);
      try {
        await settleInOrder(
          items,
          {
            handle: (some) => append(batch.partition, some),
            bury,
            isDeclared: (item, error) => declares(error, item),
          },
          (some) => {
            for (const item of some) open.delete(item);
            const last = some.at(-1);
            if (last !== undefined) batch.finish(last.raw.offset + 1n);
          },
        );
        metrics.processed(topic, 'ok', spent());
        size.told('ok', items.length, spent() * 1_000);
      } catch (error) {
        metrics.processed(topic, 'away', spent());
        if (size.told('away', open.size, spent() * 1_000))
          log.warning('consumer.batch_halved', { error, topic, records: size.limit });
        for (const item of open) endSpan(item, error);
        return { kind: 'away', error };
      }
    }
    return { kind: 'done' };
  }

  return {
    process,
    get hangingSince() {
      return bound.hangingSince;
    },
  };
}
