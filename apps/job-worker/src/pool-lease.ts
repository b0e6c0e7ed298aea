import { fault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';

export interface PoolLease {
  /** Says under which name this process locks jobs now; undefined when it runs none. */
  holds(poolId: string | undefined): void;
  /** Aborts when this process could not show for a lease time that it lives: others run its jobs then. */
  readonly lost: AbortSignal;
  /** The same at this moment, by a clock that also goes on while the process stands still. */
  readonly held: boolean;
  /** When it last showed that it lives, in seconds since 1970; 0 before. */
  readonly lastBeatTimestamp: number;
  /** Shows it until the signal, and frees the jobs of those that do not. */
  run(signal: AbortSignal): Promise<void>;
}

const beatsALease = 5;
/** Rows of processes that are gone are of no use after so many leases. */
const leasesKept = 100;

const beat = `
  INSERT INTO job_worker.pools (pool_id, seen_at) VALUES ($1, clock_timestamp())
  ON CONFLICT (pool_id) DO UPDATE SET seen_at = excluded.seen_at`;
// A job that was locked a moment ago may be one of a process that has not told of itself yet.
const deadPools = `
  SELECT DISTINCT locked_by AS pool FROM (
    SELECT locked_by, locked_at FROM graphile_worker._private_jobs WHERE locked_at IS NOT NULL
    UNION ALL
    SELECT locked_by, locked_at FROM graphile_worker._private_job_queues WHERE locked_at IS NOT NULL
  ) AS locks
  WHERE locked_at < clock_timestamp() - $1 * interval '1 millisecond' AND NOT EXISTS (
    SELECT 1 FROM job_worker.pools p
    WHERE p.pool_id = locked_by AND p.seen_at > clock_timestamp() - $1 * interval '1 millisecond')`;
// Whoever ends a job takes the lock off its queue only with the job's row. One that stood still may have ended it first, and
// then nothing of the tenant, or of the schedule, would run for four hours.
const freeQueues = `
  UPDATE graphile_worker._private_job_queues q SET locked_at = NULL, locked_by = NULL
  WHERE locked_at < clock_timestamp() - $1 * interval '1 millisecond' AND NOT EXISTS (
    SELECT 1 FROM graphile_worker._private_jobs j WHERE j.job_queue_id = q.id AND j.locked_by = q.locked_by)
  RETURNING queue_name`;
const forget = `DELETE FROM job_worker.pools WHERE seen_at < clock_timestamp() - $1 * interval '1 millisecond'`;

/**
 * Who is alive. graphile-worker locks a job for its pool and takes it back after four hours; here each process tells a few
 * times a lease that it lives, and frees the jobs of those that have not for a whole lease. All times are the database's.
 * Like every lease: who was away itself frees nothing until it has been back for a lease time, and who could not tell
 * stops its jobs by its own monotonic clock.
 */
export function poolLease(
  database: Pick<Database, 'query' | 'urgent'>,
  leaseMs: number,
  log: Logger,
): PoolLease {
  let poolId: string | undefined;
  let lost = new AbortController();
  /** When the last beat that arrived was sent; monotonic. */
  let goodAt: number | undefined;
  let connectedAt: number | undefined;
  let lastBeatAt = 0;
  let wake = new AbortController();

  const held = () => goodAt !== undefined && performance.now() - goodAt < leaseMs;

  async function tell(): Promise<void> {
    if (poolId === undefined) return;
    const sentAt = performance.now();
    await database.urgent.query(beat, [poolId]);
    goodAt = sentAt;
    lastBeatAt = Date.now();
    connectedAt ??= sentAt;
  }

  async function freeOthers(): Promise<void> {
    if (connectedAt === undefined || performance.now() - connectedAt < leaseMs) return;
    const rows = await database.query<{ pool: string }>(deadPools, [leaseMs]);
    if (rows.length > 0) {
      const pools = rows.map(({ pool }) => pool);
      await database.query('SELECT graphile_worker.force_unlock_workers($1)', [pools]);
      log.warning('jobs.freed', { pools });
    }
    const queues = await database.query<{ queue_name: string }>(freeQueues, [leaseMs]);
    if (queues.length > 0) log.warning('jobs.queues_freed', { queues: queues.map((row) => row.queue_name) });
    await database.query(forget, [leaseMs * leasesKept]);
  }

  function endIfLost(): void {
    if (poolId === undefined || goodAt === undefined || held()) return;
    log.warning('jobs.lease_lost', { sinceMs: Math.round(performance.now() - goodAt) });
    goodAt = undefined;
    lost.abort(fault('LEASE_LOST', 'this process could not show that it lives'));
    lost = new AbortController();
  }

  return {
    holds(id) {
      poolId = id;
      // What is locked from now on is safe for a lease time, whether or not the first beat arrives.
      goodAt = id === undefined ? undefined : performance.now();
      wake.abort();
    },
    get lost() {
      return lost.signal;
    },
    get held() {
      return held();
    },
    get lastBeatTimestamp() {
      return lastBeatAt / 1_000;
    },
    async run(signal) {
      const watch = setInterval(endIfLost, Math.max(100, leaseMs / 20));
      try {
        while (!signal.aborted) {
          wake = new AbortController();
          try {
            await tell();
            await freeOthers();
          } catch (error) {
            connectedAt = undefined;
            log.debug('jobs.beat_failed', { error });
          }
          await pause(leaseMs / beatsALease, AbortSignal.any([signal, wake.signal]));
        }
      } finally {
        clearInterval(watch);
      }
    },
  };
}
