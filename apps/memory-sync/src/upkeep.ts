import type { UpkeepTask, UpkeepTasks } from '@signalbox/messaging/upkeep';
import type { WorkQueue } from '@signalbox/work/queue';
import type { MemoryStore } from './memory-store.ts';

/** A day longer than memory.writes keeps its records: these rows are their inbox. */
const keepMs = 8 * 24 * 3600 * 1000;

/** What job-worker has done here, in pieces. */
export function upkeepTasks(
  store: Pick<MemoryStore, 'forget'>,
  queue: Pick<WorkQueue, 'prune' | 'sweep'>,
): UpkeepTasks {
  const pruning =
    (prune: (limit: number) => Promise<number>): UpkeepTask =>
    async ({ limit }) => {
      const done = await prune(limit);
      return { done, more: done === limit };
    };
  return {
    superseded: pruning((limit) => store.forget(keepMs, limit)),
    work_rows: pruning((limit) => queue.prune(keepMs, limit)),
    stale_lanes: async () => ({ done: await queue.sweep(), more: false }),
  };
}
