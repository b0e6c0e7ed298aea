import { asFault, isFault } from '@signalbox/faults/fault';
import type { Database, Transaction } from '@signalbox/postgres/database';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { Claims } from './claims.ts';
import { Heartbeat } from './heartbeat.ts';
import { expiryMarginMs, HeldLanes, type Lease, laneName } from './held-lanes.ts';
import type { Claim, ClaimTerms, Resume, TenantLoad, WorkItem, WorkQueue, WorkRow } from './queue.ts';
import { workQueue } from './queue.ts';
import { defaultRetryRules, type RetryRules, retryDelayMs } from './retry-delay.ts';
import { Upkeep } from './upkeep.ts';

export type { Lease } from './held-lanes.ts';
export type { Resume, TenantLoad, WorkItem, WorkRow } from './queue.ts';
export type { RetryRules } from './retry-delay.ts';

export interface WorkerOptions {
  readonly database: Database;
  readonly schema: string;
  /** The process: one id for all its lanes, also the outbox's writer. */
  readonly owner: string;
  /** Items run at once. */
  readonly maxActive: number;
  /** A lane of a process that is gone is taken over after this. At least four heartbeats; 10 000 is a good value. */
  readonly leaseMs: number;
  readonly heartbeatMs?: number;
  /** Payload formats that `run` understands. */
  readonly formats: readonly number[];
  /**
   * Runs one item and stores how it ended (work_finish, work_park, … through its own SQL or `worker.queue`) in the
   * transaction of its effect. When it throws: LEASE_LOST drops the item; anything else retries it, or fails it for
   * good once the rules are spent. Must end soon after `lease.signal` aborts, and then sends nothing more.
   */
  run(item: WorkItem, lease: Lease): Promise<void>;
  /**
   * Called instead of work_finish('failed') when the retries are spent, to say so where the client looks; must itself
   * end with work_finish in its transaction.
   */
  giveUp?(item: WorkItem, lease: Lease, error: unknown): Promise<void>;
  readonly retry?: Partial<RetryRules>;
  /** Finished rows are kept this long: they are the inbox. Default eight days. */
  readonly keepFinishedMs?: number;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** The label of work_waiting and work_oldest_seconds. */
  readonly queueName: string;
}

export interface WorkerDetail {
  readonly status: 'ok' | 'down';
  readonly size: number;
  readonly busy: number;
  readonly queued: number;
  readonly completed_total: number;
  readonly failed_total: number;
}

export interface Worker {
  readonly queue: WorkQueue;
  /** Something may be ready: claims at once if a slot is free. Call it after an intake's commit. */
  wake(): void;
  /**
   * Intake: enqueues in the caller's transaction and, where slots are free, takes the items along: they start right
   * after the commit, without another round trip. Answers the ids that are new.
   */
  enqueue(tx: Transaction, rows: readonly WorkRow[]): Promise<string[]>;
  /** Results of parked items, likewise. Answers those that counted, with what each item still waits for. */
  resume(tx: Transaction, results: readonly Resume[]): Promise<{ id: string; pending: number }[]>;
  /**
   * The same for a service whose own SQL function enqueues or resumes, claims and reads what the runs start from, in one
   * round trip: `take` gets the free slots, and says what it claimed and whether more could be claimed now.
   */
  claimWithin<T>(
    tx: Transaction,
    take: (slots: number, terms: ClaimTerms) => Promise<{ result: T; claims: Claim[]; more: boolean }>,
  ): Promise<T>;
  active(): number;
  /** Rows waiting by tenant, a few seconds old: what an accept or an intake bounds itself by. */
  load(): readonly TenantLoad[];
  detail(): WorkerDetail;
  /**
   * No new claims; waits for the runs until `signal` aborts, then ends their leases, waits up to `graceMs` (2 000) for
   * them to notice and hands their items over to other processes.
   */
  stop(signal: AbortSignal, graceMs?: number): Promise<void>;
}

/** Starts to claim and run. Owns its timers; everything ends with `stop`. */
export function startWorker(options: WorkerOptions): Worker {
  const heartbeatMs = options.heartbeatMs ?? 500;
  if (options.leaseMs < heartbeatMs * 4 || options.leaseMs <= expiryMarginMs * 4) {
    throw asFault(new Error(`leaseMs ${options.leaseMs} is less than four heartbeats`));
  }
  return new LaneWorker(options, heartbeatMs);
}

class LaneWorker implements Worker {
  readonly queue: WorkQueue;
  readonly #options: WorkerOptions;
  readonly #rules: RetryRules;
  readonly #held = new HeldLanes();
  /** The run last started in a lane, until it settles: the next one of the lane waits for it. */
  readonly #runs = new Map<string, Promise<void>>();
  readonly #claims: Claims;
  readonly #heartbeat: Heartbeat;
  readonly #upkeep: Upkeep;
  readonly #expiry: NodeJS.Timeout;
  readonly #retryTimers = new Set<NodeJS.Timeout>();
  #stopping = false;
  #completed = 0;
  #failed = 0;

  constructor(options: WorkerOptions, heartbeatMs: number) {
    const { database, schema, owner, leaseMs, formats, log } = options;
    this.#options = options;
    this.#rules = { ...defaultRetryRules, ...options.retry };
    this.queue = workQueue(database, schema);
    this.#claims = new Claims({
      queue: this.queue,
      terms: { owner, leaseMs, formats },
      log,
      freeSlots: () => options.maxActive - this.#held.size,
      mayTakeExpired: () => this.#heartbeat.mayTakeExpired,
      onClaim: (claim, sentAt) => this.#start(claim, sentAt),
    });
    this.#heartbeat = new Heartbeat({
      queue: this.queue,
      held: this.#held,
      owner,
      leaseMs,
      everyMs: heartbeatMs,
      log,
      oldestClaimSentAt: () => this.#claims.oldestSentAt,
      onLetGo: () => this.#claims.wake(),
    });
    this.#upkeep = new Upkeep(this.queue, options);
    // A heartbeat may hang; the clock does not.
    this.#expiry = setInterval(() => this.#held.expire(), expiryMarginMs / 2);
    this.#heartbeat.start();
    this.#claims.start();
    this.#upkeep.start();
    options.metrics.gauge(
      'worker_last_heartbeat_timestamp',
      { help: 'Unix time of the last heartbeat that renewed this process’s leases.' },
      () => (this.#heartbeat.lastGoodAt === undefined ? undefined : this.#heartbeat.lastGoodAt / 1000),
    );
  }

  wake(): void {
    this.#claims.wake();
  }

  enqueue(tx: Transaction, rows: readonly WorkRow[]): Promise<string[]> {
    return this.#claims.within(tx, async (slots, terms) => {
      const { ids, claims } = await this.queue.enqueueAndClaim(tx, rows, slots, terms);
      return { result: ids, claims, more: claims.length < ids.length };
    });
  }

  resume(tx: Transaction, results: readonly Resume[]): Promise<{ id: string; pending: number }[]> {
    return this.#claims.within(tx, async (slots, terms) => {
      const { resumed, claims } = await this.queue.resumeAndClaim(tx, results, slots, terms);
      const ready = resumed.filter((each) => each.pending <= 0).length;
      return { result: resumed, claims, more: claims.length < ready };
    });
  }

  claimWithin<T>(
    tx: Transaction,
    take: (slots: number, terms: ClaimTerms) => Promise<{ result: T; claims: Claim[]; more: boolean }>,
  ): Promise<T> {
    return this.#claims.within(tx, take);
  }

  active(): number {
    return this.#held.size;
  }

  load(): readonly TenantLoad[] {
    return this.#upkeep.load;
  }

  detail(): WorkerDetail {
    const { lastGoodAt } = this.#heartbeat;
    const alive = lastGoodAt !== undefined && Date.now() - lastGoodAt < this.#options.leaseMs;
    return {
      status: alive ? 'ok' : 'down',
      size: this.#options.maxActive,
      busy: this.#held.size,
      queued: this.#upkeep.load.reduce((sum, each) => sum + each.waiting, 0),
      completed_total: this.#completed,
      failed_total: this.#failed,
    };
  }

  #start({ item, fence }: Claim, sentAt: number): void {
    const { owner, leaseMs } = this.#options;
    const held = this.#held.add(item, fence, owner, sentAt, leaseMs);
    if (this.#stopping) held.end('stop');
    const name = laneName(item);
    const before = this.#runs.get(name);
    const run = this.#runOne(item, held.lease, held.ended, before).finally(() => {
      held.remove();
      if (this.#runs.get(name) === run) this.#runs.delete(name);
      this.#claims.wake();
    });
    this.#runs.set(name, run);
  }

  /**
   * Never rejects. The last run of the lane is waited for first: its finish is committed, hence this claim, but the
   * process may not have handed its last records to the producer yet, and this run's records must come behind them.
   */
  async #runOne(
    item: WorkItem,
    lease: Lease,
    ended: () => 'stop' | 'lost' | undefined,
    before: Promise<void> | undefined,
  ): Promise<void> {
    if (before !== undefined) await Promise.race([before, aborted(lease.signal)]);
    try {
      lease.signal.throwIfAborted();
      await this.#options.run(item, lease);
      this.#completed += 1;
    } catch (error) {
      await this.#afterThrow(item, lease, ended(), error);
    }
  }

  async #afterThrow(
    item: WorkItem,
    lease: Lease,
    ended: 'stop' | 'lost' | undefined,
    error: unknown,
  ): Promise<void> {
    const { log, database } = this.#options;
    const fields = { tenantId: item.tenant, key: item.key, itemId: item.id, attempt: item.attempt };
    try {
      if (ended === 'lost' || isFault(error, 'LEASE_LOST')) {
        log.warning('work.lease_lost', { ...fields, fence: lease.fence });
        this.#heartbeat.dropped({ ...item, fence: lease.fence });
      } else if (ended === 'stop') {
        log.info('work.handed_over', fields);
        await this.queue.handOver(database, item, lease);
      } else {
        await this.#retryOrFail(item, lease, error, fields);
      }
    } catch (failure) {
      // Not stored: the lane stays ours in the database until a heartbeat finds that nobody runs it.
      this.#heartbeat.dropped({ ...item, fence: lease.fence });
      if (!isFault(failure, 'LEASE_LOST'))
        log.error('work.outcome_not_stored', { ...fields, error: failure });
    }
  }

  async #retryOrFail(item: WorkItem, lease: Lease, error: unknown, fields: object): Promise<void> {
    const { log, database, giveUp } = this.#options;
    const { code, message } = asFault(error);
    const ageMs = Date.now() - item.enqueuedAt.getTime();
    const delayMs = retryDelayMs(error, item.retries, ageMs, this.#rules);
    if (delayMs !== undefined) {
      log.warning('work.retried', { ...fields, error, delayMs: Math.round(delayMs) });
      await this.queue.retry(database, item, lease, delayMs, code);
      this.#wakeIn(delayMs);
      return;
    }
    this.#failed += 1;
    log.error('work.failed', { ...fields, error });
    if (giveUp === undefined) await this.queue.finish(database, item, lease, 'failed', `${code}: ${message}`);
    else await giveUp.call(this.#options, item, lease, error);
  }

  #wakeIn(delayMs: number): void {
    if (this.#stopping) return;
    const timer = setTimeout(() => {
      this.#retryTimers.delete(timer);
      this.#claims.wake();
    }, delayMs + 1);
    this.#retryTimers.add(timer);
  }

  async stop(signal: AbortSignal, graceMs = 2000): Promise<void> {
    this.#stopping = true;
    for (const timer of this.#retryTimers) clearTimeout(timer);
    this.#upkeep.stop();
    await Promise.race([this.#claims.stop(), aborted(signal)]);
    const allRuns = () => Promise.allSettled([...this.#runs.values()]);
    await Promise.race([allRuns(), aborted(signal)]);
    this.#held.endAll('stop');
    await Promise.race([allRuns(), aborted(AbortSignal.timeout(graceMs))]);
    if (this.#runs.size > 0) this.#options.log.error('work.stop_overran', { runs: this.#runs.size });
    await this.#heartbeat.stop();
    clearInterval(this.#expiry);
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
