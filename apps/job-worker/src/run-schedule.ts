import { asFault, type Fault, fault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { JobOutcome } from './run-job.ts';
import type { ScheduleStore } from './schedule-store.ts';
import type { Schedule } from './schedules.ts';

/** What came of one bounded piece. */
export interface Piece {
  readonly done: number;
  readonly more: boolean;
  readonly resume?: object | undefined;
  readonly detail?: object | undefined;
}

export interface PieceAsked {
  /** Rows at most. */
  readonly limit: number;
  /** What the piece before gave. */
  readonly resume: object | undefined;
  /** The time that the run is for: what is old is old at this moment, however late or often the job runs. */
  readonly tick: Date;
  readonly signal: AbortSignal;
}

/** Does one piece of what a schedule is about. Doing it twice does no more than once. */
export type DoPiece = (schedule: Schedule, asked: PieceAsked) => Promise<Piece>;

export interface ScheduleRunnerParts {
  readonly schedules: readonly Schedule[];
  readonly store: ScheduleStore;
  readonly doPiece: DoPiece;
  readonly limit: number;
  /** Usual bound of a run, looked at between two pieces. */
  readonly runMs: number;
  /** Between the tries of a schedule that comes seldom. */
  readonly retryMs?: number;
  readonly log: Logger;
}

/** What a schedule of long runs waits out: its next tick is a day away. */
const patientTries = 5;
const defaultRetryMs = 30_000;

/** Whether a later try may succeed, and may go on where this one was. CONFLICT: a piece that timed out runs on at its owner. */
const passes = ({ retryable, code }: Fault) => retryable || code === 'CONFLICT';

/**
 * Runs a schedule for a tick: piece after piece until there is no more or its time is over. What fails is a failed run
 * that people can see, and the next tick's to try again: an owner that is away holds nobody up. A run that dies goes on
 * after its last piece; one that was done already is not done again.
 */
export function scheduleRunner({
  schedules,
  store,
  doPiece,
  limit,
  runMs,
  retryMs = defaultRetryMs,
  log,
}: ScheduleRunnerParts): (name: string, tick: Date, signal: AbortSignal) => Promise<JobOutcome> {
  const byName = new Map(schedules.map((schedule) => [schedule.name, schedule]));

  async function patiently(schedule: Schedule, asked: PieceAsked): Promise<Piece> {
    for (let left = schedule.bounds > 1 ? patientTries - 1 : 0; ; left -= 1) {
      try {
        return await doPiece(schedule, asked);
      } catch (error) {
        if (left === 0 || asked.signal.aborted || !passes(asFault(error))) throw error;
        log.debug('schedule.waits', { schedule: schedule.name, error });
        await pause(retryMs, asked.signal);
      }
    }
  }

  async function pieces(schedule: Schedule, tick: Date, from: object | undefined, signal: AbortSignal) {
    const until = performance.now() + runMs * schedule.bounds;
    let resume = from;
    for (;;) {
      signal.throwIfAborted();
      const piece = await patiently(schedule, { limit, resume, tick, signal });
      resume = piece.resume;
      if (!(await store.progress(schedule.name, tick, piece.done, resume))) {
        throw fault('LEASE_LOST', `another run of ${schedule.name} has begun`);
      }
      if (!piece.more || performance.now() > until) return piece;
    }
  }

  async function failed(schedule: Schedule, tick: Date, why: Fault): Promise<void> {
    const { name } = schedule;
    log.warning('schedule.failed', { schedule: name, tick: tick.toISOString(), error: why });
    await store.end(name, tick, {
      outcome: 'failed',
      error: `${why.code}: ${why.message}`,
      keepResume: passes(why),
    });
  }

  return async (name, tick, signal) => {
    const schedule = byName.get(name);
    if (schedule === undefined) {
      // It was turned off, or is one of another release, after its job was added.
      log.info('schedule.skipped', { schedule: name });
      return 'skipped';
    }
    const begun = await store.begin(name, tick);
    if (begun === undefined) return 'skipped';
    try {
      const { more, detail } = await pieces(schedule, tick, begun.resume, signal);
      await store.end(name, tick, { outcome: more ? 'more' : 'done', detail, keepResume: more });
      return 'done';
    } catch (error) {
      const why = asFault(error);
      // Given back by a stop: it goes on elsewhere. Taken over: it has gone on, and its job is not this process's to end:
      // a run that returns has the queue forget the job, whoever runs it now.
      if (signal.aborted || why.code === 'LEASE_LOST') throw error;
      await failed(schedule, tick, why);
      return 'failed';
    }
  };
}
