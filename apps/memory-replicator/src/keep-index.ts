import { pause } from '@signalbox/lifecycle/pause';
import type { Queryable } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';

export interface IndexKeeper {
  /** So many memories were taken in: do not wait for the next look. */
  wake(taken: number): void;
  /** Until the signal aborts. Never rejects. */
  run(signal: AbortSignal): Promise<void>;
}

/** Memories a transaction: about a quarter of a second of one core, so that the others of the database have their turn. */
const pieceMemories = 1_000;
/** An intake of so many at once is working off a backlog: the database is for it, but for a piece each second. */
const floodMemories = 500;
const floodMs = 100;
const pieceAtLeastEveryMs = 1_000;
/** Another replica's intake does not wake this one. */
const lookEveryMs = 500;
const maxPauseMs = 5_000;

/**
 * Makes the search rows behind the intake: they take ten times as long as the replica's rows, and nobody but a recall waits
 * for them. One replica at a time does it; the others look twice a second whether they may.
 */
export function indexKeeper(database: Queryable, log: Logger): IndexKeeper {
  let due = Promise.withResolvers<void>();
  let failures = 0;
  let floodedAt = Number.NEGATIVE_INFINITY;
  let pieceAt = Number.NEGATIVE_INFINITY;

  async function letFloodPass(signal: AbortSignal): Promise<void> {
    const flooded = () => performance.now() - floodedAt < floodMs;
    while (flooded() && performance.now() - pieceAt < pieceAtLeastEveryMs && !signal.aborted) {
      await pause(floodMs / 2, signal);
    }
    pieceAt = performance.now();
  }

  /** How many memories it has indexed; undefined while another process does. */
  async function piece(): Promise<number | undefined> {
    const [row] = await database.query<{ indexed: number | null }>(
      'select memory_replicator.index_pending($1) as indexed',
      [pieceMemories],
    );
    if (row?.indexed !== 0) return row?.indexed ?? undefined;
    const [more] = await database.query<{ more: boolean }>(
      'select memory_replicator.reindex_some($1) as more',
      [pieceMemories],
    );
    return more?.more === true ? pieceMemories : 0;
  }

  async function wait(ms: number, signal: AbortSignal, woken: boolean): Promise<void> {
    const ended = new AbortController();
    const over = AbortSignal.any([signal, ended.signal]);
    const waits: Promise<void>[] = [pause(ms, over)];
    if (woken) waits.push(due.promise);
    await Promise.race(waits);
    ended.abort();
  }

  return {
    wake(taken) {
      if (taken >= floodMemories) floodedAt = performance.now();
      due.resolve();
    },
    async run(signal) {
      while (!signal.aborted) {
        due = Promise.withResolvers<void>();
        await letFloodPass(signal);
        try {
          const indexed = await piece();
          failures = 0;
          if (indexed === undefined) await wait(lookEveryMs, signal, false);
          else if (indexed === 0) await wait(lookEveryMs, signal, true);
        } catch (error) {
          failures += 1;
          log.warning('memory.index_failed', { error, tries: failures });
          await wait(Math.min(lookEveryMs * 2 ** Math.min(failures, 8), maxPauseMs), signal, false);
        }
      }
    },
  };
}
