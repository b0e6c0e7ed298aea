import { fault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';

export interface StoreWatchOptions {
  /** Rejects while a store of the handler does not answer. */
  readonly answer: () => Promise<unknown>;
  /** A partition that has waited for so long for a store that does not answer is better elsewhere. */
  readonly leaveAfterMs: number;
}

/** What a subscription knows of the stores that its handler writes to, as this process reaches them. */
export interface StoreWatch {
  /** Follows what becomes of the batches of a partition. */
  seen(partition: number, outcome: 'done' | 'away'): void;
  /** From here on only these partitions count. */
  assigned(partitions: readonly number[]): void;
  /** The error of a store that does not answer while a partition has waited for it for too long. For a timer. */
  leaveFor(): Promise<unknown>;
  /** Resolves with the error of a store that does not answer, undefined while all do. */
  trouble(): Promise<unknown>;
  /** Waits until the stores answer. `onAway` is told once of an error. */
  back(signal: AbortSignal, onAway: (error: unknown) => void): Promise<void>;
}

const answerBoundMs = 4_000;
const firstPauseMs = 250;
const maxPauseMs = 2_000;
const firstSteadyMs = 500;
const maxSteadyMs = 8_000;
/** Without a leave for so long, the next one is a first one. */
const forgetMs = 120_000;

/**
 * A partition whose store is away for this process alone would wait here for ever while its neighbours could go on
 * with it: so the member leaves, and comes back when the store answers. A store that does answer is no reason to leave:
 * what holds the records up then (a missing right, a dead letter that cannot be stored) would hold them up elsewhere too.
 */
export function createStoreWatch({ answer, leaveAfterMs }: StoreWatchOptions): StoreWatch {
  /** Since when partitions have waited, monotonic milliseconds. */
  const waiting = new Map<number, number>();
  let asking = false;
  let leaves = 0;
  let leftAt = Number.NEGATIVE_INFINITY;

  async function trouble(): Promise<unknown> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const reason = fault('TIMEOUT', 'the store does not answer');
      timer = setTimeout(() => reject(reason), answerBoundMs);
    });
    try {
      await Promise.race([answer(), late]);
      return undefined;
    } catch (error) {
      return error ?? new Error('a store is away');
    } finally {
      clearTimeout(timer);
    }
  }

  function overdue(): boolean {
    const now = performance.now();
    return [...waiting.values()].some((since) => now - since >= leaveAfterMs);
  }

  return {
    seen(partition, outcome) {
      if (outcome === 'done') waiting.delete(partition);
      else if (!waiting.has(partition)) waiting.set(partition, performance.now());
    },
    assigned(partitions) {
      for (const partition of waiting.keys()) if (!partitions.includes(partition)) waiting.delete(partition);
    },
    async leaveFor() {
      if (asking || !overdue()) return undefined;
      asking = true;
      const error = await trouble();
      asking = false;
      if (error === undefined || !overdue()) return undefined;
      const now = performance.now();
      leaves = now - leftAt > forgetMs ? 1 : leaves + 1;
      leftAt = now;
      waiting.clear();
      return error;
    },
    trouble,
    async back(signal, onAway) {
      // Who has left before comes back only to a store that goes on answering: each join stops the whole group a moment.
      const forgotten = performance.now() - leftAt > forgetMs;
      const steadyMs = forgotten ? 0 : Math.min(firstSteadyMs * 2 ** (leaves - 1), maxSteadyMs);
      let told = false;
      let answersSince: number | undefined;
      for (let tries = 0; !signal.aborted; ) {
        const error = await trouble();
        if (error === undefined) {
          tries = 0;
          answersSince ??= performance.now();
          if (performance.now() - answersSince >= steadyMs) return;
        } else {
          tries += 1;
          answersSince = undefined;
          if (!told) onAway(error);
          told = true;
        }
        const pauseMs = Math.min(firstPauseMs * 2 ** Math.min(tries, 8), maxPauseMs);
        await pause(pauseMs * (0.5 + Math.random() / 2), signal);
      }
    },
  };
}
