import { fault } from '@signalbox/faults/fault';

export interface TickBatcherOptions<T, R> {
  /** Runs one batch and answers each item at its place. A rejection goes to every item of the batch. */
  run(items: readonly T[]): Promise<readonly R[]>;
  /** Items of one batch at most. */
  readonly maxItems: number;
  /** Distinct groups (tenants) of one batch at most. */
  readonly maxGroups: number;
  groupOf(item: T): string;
  /** Batches under way at once. */
  readonly concurrency: number;
  /**
   * A batch begins beside another only when so many items wait: two small statements cost the database more than one
   * that is twice as large, but a statement that hangs must not hold everybody up. Default 1.
   */
  readonly besideAt?: number;
  /** Items waiting at most; past it `add` throws DATABASE_UNAVAILABLE at once, for waiting would not help. */
  readonly maxWaiting: number;
}

export interface TickBatcher<T, R> {
  add(item: T): Promise<R>;
  readonly waiting: number;
}

interface Waiting<T, R> {
  readonly item: T;
  resolve(result: R): void;
  reject(error: unknown): void;
}

/**
 * Collects what is asked for in one turn of the event loop into one batch: when idle an item waits for nothing but the
 * end of its tick, under load a batch grows by itself while the ones before it are at the database.
 */
export function createTickBatcher<T, R>(options: TickBatcherOptions<T, R>): TickBatcher<T, R> {
  const { run, maxItems, maxGroups, groupOf, concurrency, besideAt = 1, maxWaiting } = options;
  let waiting: Waiting<T, R>[] = [];
  let running = 0;
  let scheduled = false;

  function mayRun(): boolean {
    return running < concurrency && waiting.length >= (running === 0 ? 1 : besideAt);
  }

  function schedule(): void {
    if (scheduled || !mayRun()) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      while (mayRun()) void runBatch(take());
    });
  }

  function take(): Waiting<T, R>[] {
    const groups = new Set<string>();
    const batch: Waiting<T, R>[] = [];
    for (const each of waiting) {
      if (batch.length >= maxItems) break;
      groups.add(groupOf(each.item));
      if (groups.size > maxGroups) break;
      batch.push(each);
    }
    waiting = waiting.slice(batch.length);
    return batch;
  }

  async function runBatch(batch: readonly Waiting<T, R>[]): Promise<void> {
    running += 1;
    try {
      const results = await run(batch.map(({ item }) => item));
      for (const [index, each] of batch.entries()) {
        const result = results[index];
        if (result === undefined)
          each.reject(fault('INTERNAL_ERROR', 'a batch left an item without an answer'));
        else each.resolve(result);
      }
    } catch (error) {
      for (const each of batch) each.reject(error);
    } finally {
      running -= 1;
      schedule();
    }
  }

  return {
    add: (item) =>
      new Promise((resolve, reject) => {
        if (waiting.length >= maxWaiting) {
          reject(
            fault('DATABASE_UNAVAILABLE', 'too many requests wait for the database', { retryAfterMs: 1000 }),
          );
          return;
        }
        waiting.push({ item, resolve, reject });
        schedule();
      }),
    get waiting() {
      return waiting.length;
    },
  };
}
