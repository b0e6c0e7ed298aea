import type { SourceTopicName } from '@signalbox/contracts/topics';
import { asFault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import type { Database, Transaction } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { inSpan } from '@signalbox/telemetry/trace';
import { createBatchSize } from './batch-size.ts';
import { fileDeadLetter } from './dead-letters.ts';
import type { IntakeRecord, RecordHead } from './decode-record.ts';
import type { BatchOutcome, BatchProcessor, FetchedBatch } from './fetched-batch.ts';
import { HandlerBound } from './handler-bound.ts';
import { enterInbox } from './inbox.ts';
import type { MessagingMetrics } from './messaging-metrics.ts';
import type { Outbox } from './outbox.ts';
import type { OutgoingMessage } from './outgoing.ts';
import { deadLetterOf, endSpan, type Item, toItem } from './record-batch.ts';
import { settleInOrder } from './settle-batch.ts';

export interface IntakeContext {
  /** Aborts when the runner no longer waits for the handler. */
  readonly signal: AbortSignal;
  /** For effects whose own row is the inbox: how many of the records had had theirs before. */
  duplicates(count: number): void;
}

/**
 * Handles records of one or several partitions, in order by key, in one transaction; returns messages to send with it.
 * Short (milliseconds): what takes long becomes a work row here. It does not publish, commit, retry or catch to log.
 * A message without traceparent continues the trace of the last record of its key.
 */
export type IntakeHandler = (
  records: readonly IntakeRecord[],
  tx: Transaction,
  context: IntakeContext,
  // biome-ignore lint/suspicious/noConfusingVoidType: a handler without messages returns nothing
) => Promise<void | readonly OutgoingMessage[]>;

export interface IntakeOptions {
  readonly topic: SourceTopicName;
  /** The group, as dead letters name it. */
  readonly group: string;
  readonly consumer: string;
  readonly handler: IntakeHandler;
  readonly accepts: ((head: RecordHead) => boolean) | undefined;
  readonly inbox: 'own-row' | 'table';
  readonly maxBatch: number;
  readonly onCommitted: (() => void) | undefined;
  readonly database: Database;
  readonly outbox: Outbox;
  readonly log: Logger;
  readonly metrics: MessagingMetrics;
}

interface Job {
  readonly batch: FetchedBatch;
  next: number;
  readonly resolve: (outcome: BatchOutcome) => void;
}

/** Bound of one transaction, under that of a handler. */
const transactionMs = 3_000;
/** All partitions share it, for they share their transactions. */
const lane = 0;

/**
 * The runner with a transaction. What kafkajs fetched together from several partitions is handled together: one commit
 * for all of it, at most maxBatch records, one transaction at a time.
 */
export function createIntake(options: IntakeOptions): BatchProcessor {
  const { topic, log, metrics } = options;
  const size = createBatchSize(options.maxBatch, transactionMs);
  const jobs: Job[] = [];
  let pumping = false;
  const bound = new HandlerBound(topic, log);

  async function pump(): Promise<void> {
    while (jobs.length > 0) {
      const round = await gather();
      if (round.length > 0) await runRound(round);
    }
    pumping = false;
  }

  /** The next records of the waiting jobs, as many as may be handled together now; drops jobs that are finished or no longer current. */
  async function gather(): Promise<{ job: Job; item: Item }[]> {
    const round: { job: Job; item: Item }[] = [];
    for (const job of [...jobs]) {
      if (job.next >= job.batch.records.length || !job.batch.isCurrent() || !(await alive(job))) {
        end(job, { kind: 'done' });
        continue;
      }
      for (let at = job.next; at < job.batch.records.length && round.length < size.limit; at += 1) {
        const raw = job.batch.records[at];
        if (raw !== undefined)
          round.push({ job, item: toItem(topic, job.batch.partition, raw, options.accepts) });
      }
      if (round.length >= size.limit) break;
    }
    return round;
  }

  function alive(job: Job): Promise<boolean> {
    return job.next === 0 ? Promise.resolve(true) : job.batch.heartbeat();
  }

  async function runRound(round: readonly { job: Job; item: Item }[]): Promise<void> {
    const startedAt = performance.now();
    const jobOf = new Map(round.map(({ job, item }) => [item, job]));
    const outcome = (kind: 'ok' | 'poison' | 'away' | 'skipped') =>
      metrics.processed(topic, kind, (performance.now() - startedAt) / 1_000);
    const settled = (items: readonly Item[]) => {
      for (const item of items) {
        const job = jobOf.get(item);
        if (job === undefined) continue;
        job.next += 1;
        job.batch.finish(item.raw.offset + 1n);
        jobOf.delete(item);
      }
    };
    try {
      await settleInOrder(
        round.map(({ item }) => item),
        {
          handle: (items) => bound.run(lane, (signal) => handleTogether(options, items, signal)),
          bury: (item, error) => bound.run(lane, () => bury(options, item, error)),
          isDeclared: (item, error) => declares(error, item),
        },
        settled,
      );
      outcome('ok');
      size.told('ok', round.length, performance.now() - startedAt);
    } catch (error) {
      outcome('away');
      if (size.told('away', jobOf.size, performance.now() - startedAt))
        log.warning('consumer.batch_halved', { error, topic, records: size.limit });
      for (const [item] of jobOf) endSpan(item, error);
      for (const job of new Set(jobOf.values())) end(job, { kind: 'away', error });
    }
  }

  function end(job: Job, outcome: BatchOutcome): void {
    const at = jobs.indexOf(job);
    if (at >= 0) jobs.splice(at, 1);
    job.resolve(outcome);
  }

  function process(batch: FetchedBatch): Promise<BatchOutcome> {
    return new Promise((resolve) => {
      jobs.push({ batch, next: 0, resolve });
      if (pumping) return;
      pumping = true;
      // After this tick, in which kafkajs starts the handlers of the other partitions of the same fetch.
      setImmediate(() => {
        pump().catch((error: unknown) => {
          log.critical('consumer.runner_failed', { error, topic });
          pumping = false;
          for (const job of [...jobs]) end(job, { kind: 'away', error });
        });
      });
    });
  }

  return {
    process,
    get hangingSince() {
      return bound.hangingSince;
    },
  };
}

/** Begin → inbox → handler → outbox → commit, for all items at once; poison found by decoding is buried with them. */
async function handleTogether(
  options: IntakeOptions,
  items: readonly Item[],
  late: AbortSignal,
): Promise<void> {
  const { database, outbox, topic, group, consumer, metrics } = options;
  for (const item of items) item.attempts += 1;
  const records = items.flatMap(({ content }) => (content.kind === 'record' ? [content.record] : []));
  const poisoned = items.filter(({ content }) => content.kind === 'poison');
  if (records.length > 0 || poisoned.length > 0) {
    const controller = new AbortController();
    const signal = AbortSignal.any([controller.signal, late]);
    let duplicates = 0;
    try {
      await database.transaction(
        async (tx) => {
          duplicates = 0;
          const fresh = options.inbox === 'table' ? await enterInbox(tx, consumer, records) : records;
          duplicates += records.length - fresh.length;
          const messages: OutgoingMessage[] = [];
          for (const item of poisoned) {
            const message = await fileDeadLetter(tx, deadLetterOf(topic, group, item, undefined));
            if (message !== undefined) messages.push(message);
          }
          if (fresh.length > 0) {
            const context = {
              signal,
              duplicates: (count: number) => (duplicates += count),
            };
            const [first] = items;
            const handle = () => options.handler(fresh, tx, context);
            const span = items.length === 1 ? first?.span : undefined;
            const answer = await (span === undefined ? handle() : inSpan(span, handle));
            for (const message of answer ?? []) messages.push(continued(message, fresh));
          }
          await outbox.put(tx, messages);
          // Not after the transaction: what it throws would be taken for an error of the handler.
          if (options.onCommitted !== undefined) tx.afterCommit(options.onCommitted);
        },
        { timeoutMs: transactionMs },
      );
    } finally {
      controller.abort();
    }
    failPoint('intake.committed');
    metrics.duplicates(consumer, duplicates);
    if (poisoned.length > 0) {
      metrics.processed(topic, 'poison', 0);
      for (const { content, raw } of poisoned) {
        const reason = content.kind === 'poison' ? content.poison.reason : '';
        options.log.error('consumer.dead_letter', { topic, offset: raw.offset.toString(), reason });
      }
    }
  }
  for (const item of items) endSpan(item);
}

async function bury(options: IntakeOptions, item: Item, error: unknown): Promise<void> {
  const { database, outbox, topic, group, log, metrics } = options;
  const letter = deadLetterOf(topic, group, item, error);
  await database.transaction(
    async (tx) => {
      const message = await fileDeadLetter(tx, letter);
      if (message !== undefined) await outbox.put(tx, [message]);
    },
    { timeoutMs: transactionMs },
  );
  metrics.processed(topic, 'poison', 0);
  log.error('consumer.dead_letter', {
    error: asFault(error),
    topic,
    offset: item.raw.offset.toString(),
    reason: letter.reason,
  });
  endSpan(item, error);
}

/** `poisonRecord(offset)` names the record by its offset; with several partitions at once the first match counts. */
export function declares(error: unknown, item: Item): boolean {
  const known = asFault(error);
  return known.code === 'POISON_RECORD' && known.details?.offset === item.raw.offset;
}

function continued(message: OutgoingMessage, records: readonly IntakeRecord[]): OutgoingMessage {
  if (message.traceparent !== undefined) return message;
  const record =
    records.findLast(({ key }) => key === message.key) ?? (records.length === 1 ? records[0] : undefined);
  return record === undefined ? message : { ...message, traceparent: record.traceparent };
}
