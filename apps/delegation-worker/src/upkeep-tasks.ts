import type { UpkeepPiece, UpkeepTask, UpkeepTasks } from '@signalbox/messaging/upkeep';
import { type WorkUpkeepTasks, workUpkeepTasks } from '@signalbox/work/upkeep-tasks';
import type { Worker } from '@signalbox/work/worker';
import type { TaskStore } from './task-store.ts';

/** A day longer than any topic keeps its records: a result of a task that is gone would be taken for one of a stranger. */
const keepTasksMs = 8 * 86_400_000;
/** One statement stays well under any statement timeout. */
const rowsAtOnce = 1_000;

type Queue = Pick<Worker['queue'], 'prune' | 'sweep'>;

/**
 * What job-worker has done here on its schedule, each a bounded piece that any replica does: finished rows and lanes of both queues,
 * and tasks that ended long ago, with their steps and inputs.
 */
export function upkeepTasks(store: Pick<TaskStore, 'prune'>, tasks: Queue, webhooks: Queue): UpkeepTasks {
  const queues = [workUpkeepTasks(tasks), workUpkeepTasks(webhooks)];
  const both =
    (name: keyof WorkUpkeepTasks): UpkeepTask =>
    async (piece: UpkeepPiece) => {
      const outcomes = [];
      for (const queue of queues) outcomes.push(await queue[name](piece));
      return {
        done: outcomes.reduce((sum, { done }) => sum + done, 0),
        more: outcomes.some(({ more }) => more),
      };
    };
  return {
    work_rows: both('work_rows'),
    stale_lanes: both('stale_lanes'),
    async tasks({ limit }) {
      const rows = Math.min(limit, rowsAtOnce);
      const done = await store.prune(keepTasksMs, rows);
      return { done, more: done >= rows };
    },
  };
}
