import type { WorkItem } from '@signalbox/work/worker';
import type { OpenedTask } from './task-store.ts';

/**
 * What an intake knows of the tasks that it claimed: their runs begin right after its commit and need not read it again.
 * By item, so that a claim that was rolled back is forgotten with its item.
 */
export interface Opened {
  keep(item: WorkItem, task: OpenedTask): void;
  take(item: WorkItem): OpenedTask | undefined;
}

export function openedTasks(): Opened {
  const kept = new WeakMap<WorkItem, OpenedTask>();
  return {
    keep: (item, task) => void kept.set(item, task),
    take(item) {
      const task = kept.get(item);
      kept.delete(item);
      return task;
    },
  };
}
