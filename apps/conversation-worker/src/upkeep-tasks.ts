import type { UpkeepTasks } from '@signalbox/messaging/upkeep';
import { workUpkeepTasks } from '@signalbox/work/upkeep-tasks';
import type { Worker } from '@signalbox/work/worker';
import type { IntakeStore } from './intake-store.ts';

const dayMs = 86_400_000;
/** Steps go with their turns, a day after the topic (delivery rule 11). */
const keepStepsMs = 8 * dayMs;
/** One statement stays well under any statement timeout. */
const rowsAtOnce = 5_000;

/** What job-worker has done here on its schedule: each a bounded piece that any replica does, and that does nothing twice. */
export function upkeepTasks(
  store: Pick<IntakeStore, 'pruneSteps' | 'pruneHistory'>,
  queue: Pick<Worker['queue'], 'prune' | 'sweep'>,
  sessionExpireDays: number,
): UpkeepTasks {
  return {
    ...workUpkeepTasks(queue),
    async steps({ limit }) {
      const rows = Math.min(limit, rowsAtOnce);
      const done = await store.pruneSteps(keepStepsMs, rows);
      return { done, more: done >= rows };
    },
    /** Turns of the history that are older than SESSION_EXPIRE_DAYS; models are not shown them any more. */
    async session_history({ limit }) {
      if (sessionExpireDays === 0) return { done: 0, more: false };
      const rows = Math.min(limit, rowsAtOnce);
      const done = await store.pruneHistory(sessionExpireDays * dayMs, rows);
      return { done, more: done >= rows };
    },
  };
}
