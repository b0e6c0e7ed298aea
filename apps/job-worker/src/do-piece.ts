import type { Asker } from '@signalbox/messaging/asker';
import { pruneDeadLetters } from '@signalbox/messaging/dead-letter-upkeep';
import { pruneInbox } from '@signalbox/messaging/inbox-upkeep';
import { askUpkeep } from '@signalbox/messaging/upkeep';
import type { Database } from '@signalbox/postgres/database';
import { askAgain } from './ask-again.ts';
import type { EndLostJobs } from './end-lost-jobs.ts';
import type { JobStore } from './job-store.ts';
import { removeExports } from './remove-exports.ts';
import type { DoPiece, Piece, PieceAsked } from './run-schedule.ts';
import { isOwnTask, type OwnTask } from './schedules.ts';

export interface PieceParts {
  readonly asker: Pick<Asker<'jobs.commands', 'jobs.results'>, 'ask'>;
  readonly askTimeoutMs: number;
  readonly database: Database;
  readonly store: Pick<JobStore, 'prune'>;
  readonly endLostJobs: EndLostJobs;
  readonly exportDir: string;
  readonly exportLinkTtlSeconds: number;
}

/** A week, as work rows are kept, and a day. */
const endedJobsKeptMs = 8 * 86_400_000;

/** A piece of upkeep: what is in tables of another service is done by its owner, the rest here. */
export function pieceDoer(parts: PieceParts): DoPiece {
  const own: Readonly<Record<OwnTask, (asked: PieceAsked) => Promise<Piece>>> = {
    async inbox({ limit }) {
      const done = await pruneInbox(parts.database, { limit });
      return { done, more: done >= limit };
    },
    dead_letters: async ({ signal }) => {
      const { gone, neverReplayed } = await pruneDeadLetters(parts.database, signal);
      return { done: gone, more: false, detail: { never_replayed: neverReplayed } };
    },
    async jobs({ tick, limit }) {
      const done = await parts.store.prune(new Date(tick.getTime() - endedJobsKeptMs), limit);
      return { done, more: done >= limit };
    },
    lost_jobs: ({ limit }) => parts.endLostJobs(limit),
    export_files: ({ tick, limit, signal }) =>
      removeExports({
        folder: parts.exportDir,
        ttlSeconds: parts.exportLinkTtlSeconds,
        at: tick,
        limit,
        signal,
      }),
  };
  return async ({ owner, task }, asked) => {
    if (owner === 'job-worker' && isOwnTask(task)) return own[task](asked);
    const { limit, resume, signal } = asked;
    const given = resume === undefined ? undefined : { ...resume };
    const question = { owner, task, limit, resume: given, signal, deadlineMs: parts.askTimeoutMs };
    return askAgain(() => askUpkeep(parts.asker, question));
  };
}
