import type { Queryable } from '@signalbox/postgres/database';

/** What is known of the last run of a schedule. */
export interface ScheduleRun {
  readonly name: string;
  readonly tick: Date;
  readonly started_at: Date;
  readonly finished_at: Date | null;
  readonly succeeded_at: Date | null;
  readonly outcome: 'running' | 'done' | 'more' | 'failed';
  readonly error: string | null;
}

export interface RunEnd {
  /** `more`: its time was over first; the next run goes on. */
  readonly outcome: 'done' | 'more' | 'failed';
  readonly detail?: object | undefined;
  readonly error?: string | undefined;
  /** Whether the next run begins where this one was. */
  readonly keepResume: boolean;
}

export interface ScheduleStore {
  /**
   * Begins the run for a tick, or goes on with one that died: what it has done so far, and where to go on. Undefined when
   * the run for this tick has ended, or one for a later tick has begun.
   */
  begin(
    name: string,
    tick: Date,
  ): Promise<{ readonly done: number; readonly resume: object | undefined } | undefined>;
  /** Notes a piece of it. False when the run is another's by now. */
  progress(name: string, tick: Date, done: number, resume: object | undefined): Promise<boolean>;
  end(name: string, tick: Date, end: RunEnd): Promise<void>;
  all(): Promise<ScheduleRun[]>;
}

const begin = `
  INSERT INTO job_worker.schedules AS s (name, tick, started_at) VALUES ($1, $2, clock_timestamp())
  ON CONFLICT (name) DO UPDATE SET tick = excluded.tick, started_at = excluded.started_at, finished_at = NULL,
    outcome = 'running', error = NULL, detail = NULL, done = CASE WHEN s.tick = excluded.tick THEN s.done ELSE 0 END
  WHERE s.tick < excluded.tick OR (s.tick = excluded.tick AND s.outcome = 'running')
  RETURNING done, resume`;
const progress = `
  UPDATE job_worker.schedules SET done = done + $3, resume = $4
  WHERE name = $1 AND tick = $2 AND outcome = 'running' RETURNING name`;
const end = `
  UPDATE job_worker.schedules SET outcome = $3, detail = $4, error = $5, finished_at = clock_timestamp(),
    succeeded_at = CASE WHEN $3 = 'failed' THEN succeeded_at ELSE clock_timestamp() END,
    resume = CASE WHEN $6 THEN resume END
  WHERE name = $1 AND tick = $2 AND outcome = 'running'`;
const all = `
  SELECT name, tick, started_at, finished_at, succeeded_at, outcome, error FROM job_worker.schedules ORDER BY name`;

export function scheduleStore(database: Queryable): ScheduleStore {
  const json = (value: object | undefined) => (value === undefined ? null : JSON.stringify(value));
  return {
    async begin(name, tick) {
      const [row] = await database.query<{ done: string; resume: object | null }>(begin, [name, tick]);
      return row === undefined ? undefined : { done: Number(row.done), resume: row.resume ?? undefined };
    },
    async progress(name, tick, done, resume) {
      return (await database.query(progress, [name, tick, done, json(resume)])).length > 0;
    },
    async end(name, tick, { outcome, detail, error, keepResume }) {
      await database.query(end, [name, tick, outcome, json(detail), error ?? null, keepResume]);
    },
    all: () => database.query<ScheduleRun>(all),
  };
}
