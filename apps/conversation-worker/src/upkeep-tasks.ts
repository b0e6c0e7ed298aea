import type { UpkeepTasks } from '@signalbox/messaging/upkeep';
import type { Worker } from '@signalbox/work/worker';
import type { IntakeStore } from './intake-store.ts';

const dayMs = 86_400_000;

/** Turns, their steps and the ids of actions outlive the topic's seven days by one: they are the inbox. */
const keepMs = 8 * dayMs;

/**
 * What job-worker has done here on its schedule, each a bounded piece that any replica does and that does nothing twice.
 * Lanes are also swept by each worker itself.
 */
export function upkeepTasks(
  store: Pick<IntakeStore, 'prune' | 'pruneHistory'>,
  queue: Pick<Worker['queue'], 'prune' | 'sweep'>,
  sessionExpireDays: number,
): UpkeepTasks {
  return {
    /** Finished turns, and the lanes of sessions in which nothing is left to do. */
    async work_rows({ limit }) {
      const done = await queue.prune(keepMs, limit);
      return { done, more: done >= limit };
    },
    /** Lanes that nobody holds and that are not marked ready although they could go on; at most 1 000 at a time. */
    async stale_lanes() {
      const done = await queue.sweep();
      return { done, more: false };
    },
    async steps({ limit }) {
      const { steps, actions } = await store.prune(keepMs, limit);
      return { done: steps + actions, more: steps >= limit || actions >= limit, detail: { steps, actions } };
    },
    async session_history({ limit }) {
      if (sessionExpireDays === 0) return { done: 0, more: false };
      const done = await store.pruneHistory(sessionExpireDays * dayMs, limit);
      return { done, more: done >= limit };
    },
  };
}
