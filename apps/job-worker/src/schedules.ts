import { type CronItem, parseCronItems } from 'graphile-worker';

/** What is done in the tables of this service and of the messages; no other service is asked. */
export const ownTasks = ['inbox', 'dead_letters', 'jobs', 'lost_jobs', 'export_files'] as const;
export type OwnTask = (typeof ownTasks)[number];

/** Done here, or by the service that owns the tables, which is asked. */
export type ScheduledTask =
  | { readonly owner: 'job-worker'; readonly task: OwnTask }
  | { readonly owner: string; readonly task: string };

export type Schedule = ScheduledTask & {
  /** `owner.task`: unique, and kept for good, because what is known of its runs is kept under it. */
  readonly name: string;
  /** Crontab pattern, UTC. */
  readonly cron: string;
  /** How far its ticks lie apart. A tick missed longer ago is not caught up: of many missed ones the last one is. */
  readonly everyMs: number;
  /** How many times the usual bound one run may take: what comes seldom may take longer. */
  readonly bounds: number;
};

export interface ScheduleFlags {
  readonly notificationsJanitor: boolean;
  readonly memoryCompaction: boolean;
}

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;

const quarterHourly = (minute: number) => ({
  cron: `${minute},${minute + 15},${minute + 30},${minute + 45} * * * *`,
  everyMs: 15 * minuteMs,
  bounds: 1,
});
const hourly = (minute: number) => ({ cron: `${minute} * * * *`, everyMs: hourMs, bounds: 1 });
const daily = (hour: number, minute: number) => ({
  cron: `${minute} ${hour} * * *`,
  everyMs: 24 * hourMs,
  bounds: 30,
});

type When = Pick<Schedule, 'cron' | 'everyMs' | 'bounds'>;

/** What is done when. Minutes are spread, so that no two owners are asked to sweep in the same moment. */
const table: readonly (readonly [owner: string, task: string, when: When])[] = [
  ['gateway', 'notifications', quarterHourly(2)],
  ['gateway', 'idempotency_keys', hourly(4)],
  ['gateway', 'session_events', hourly(8)],
  ['gateway', 'sessions', hourly(12)],
  ['delegation-gateway', 'idempotency_keys', hourly(16)],
  ['delegation-gateway', 'tasks', hourly(18)],
  ['conversation-worker', 'stale_lanes', quarterHourly(3)],
  ['conversation-worker', 'work_rows', hourly(22)],
  ['conversation-worker', 'steps', hourly(24)],
  ['conversation-worker', 'session_history', hourly(26)],
  ['tool-executor', 'stale_lanes', quarterHourly(5)],
  ['tool-executor', 'work_rows', hourly(28)],
  ['memory-sync', 'stale_lanes', quarterHourly(7)],
  ['memory-sync', 'work_rows', hourly(32)],
  ['memory-sync', 'superseded', hourly(34)],
  ['delegation-worker', 'stale_lanes', quarterHourly(9)],
  ['delegation-worker', 'work_rows', hourly(38)],
  ['delegation-worker', 'tasks', hourly(42)],
  ['memory-replicator', 'memory_compaction', daily(3, 44)],
  ['job-worker', 'lost_jobs', quarterHourly(1)],
  ['job-worker', 'export_files', quarterHourly(6)],
  ['job-worker', 'inbox', hourly(48)],
  ['job-worker', 'dead_letters', hourly(52)],
  ['job-worker', 'jobs', hourly(56)],
];

const flagOf: Readonly<Record<string, keyof ScheduleFlags>> = {
  'gateway.notifications': 'notificationsJanitor',
  'memory-replicator.memory_compaction': 'memoryCompaction',
};

/** The schedules that are on. */
export function schedulesOf(flags: ScheduleFlags): readonly Schedule[] {
  return table.flatMap(([owner, task, when]) => {
    const name = `${owner}.${task}`;
    const flag = flagOf[name];
    return flag !== undefined && !flags[flag] ? [] : [{ name, owner, task, ...when }];
  });
}

export function isOwnTask(task: string): task is OwnTask {
  return ownTasks.some((known) => known === task);
}

/** The task of graphile-worker that all schedules run as. */
export const scheduledJob = 'scheduled';
/** Runs of one schedule that die with their process before it is given up until the next tick. */
const maxLost = 5;

/**
 * The schedules as graphile-worker takes them. All replicas have the same; the database lets one of them add the job of a
 * tick. A tick that nobody was there for is caught up at the next start if it was the last one (`backfillPeriod`).
 * One job waits a schedule at most (`jobKey`), one of it runs at a time (`queueName`).
 */
export function crontabOf(schedules: readonly Schedule[]) {
  return parseCronItems(
    schedules.map(
      ({ name, cron, everyMs }): CronItem => ({
        task: scheduledJob,
        identifier: name,
        match: cron,
        payload: { schedule: name },
        options: {
          backfillPeriod: everyMs,
          maxAttempts: maxLost,
          queueName: `schedule ${name}`,
          jobKey: `schedule:${name}`,
          jobKeyMode: 'replace',
          priority: 10,
        },
      }),
    ),
  );
}
