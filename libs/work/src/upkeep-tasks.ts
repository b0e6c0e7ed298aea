import type { WorkQueue } from './queue.ts';

interface Piece {
  readonly limit: number;
}

interface PieceDone {
  readonly done: number;
  readonly more: boolean;
}

export type WorkUpkeepTasks = Readonly<
  Record<'work_rows' | 'stale_lanes', (piece: Piece) => Promise<PieceDone>>
>;

/** Finished rows are the inbox: a day longer than any topic of work keeps its records (delivery rule 11). */
const keepFinishedMs = 8 * 24 * 3600 * 1000;
/** One statement stays well under any statement timeout. */
const rowsAtOnce = 1000;
/** As many as `work_sweep` looks at. */
const lanesAtOnce = 1000;

/**
 * Upkeep of a queue in bounded pieces, to be asked for by name: `work_rows` deletes finished rows that are old, and their
 * idle lanes; `stale_lanes` marks lanes that could run and that nothing marks so.
 */
export function workUpkeepTasks(
  queue: Pick<WorkQueue, 'prune' | 'sweep'>,
  keepMs = keepFinishedMs,
): WorkUpkeepTasks {
  return {
    async work_rows({ limit }) {
      const rows = Math.min(limit, rowsAtOnce);
      const done = await queue.prune(keepMs, rows);
      return { done, more: done >= rows };
    },
    async stale_lanes() {
      const done = await queue.sweep();
      return { done, more: done >= lanesAtOnce };
    },
  };
}
