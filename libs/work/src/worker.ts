import { asFault } from '@signalbox/faults/fault';
import type { Database, Transaction } from '@signalbox/postgres/database';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { Claims } from './claims.ts';
import { Heartbeat } from './heartbeat.ts';
import { expiryMarginMs, HeldLanes, type Lease } from './held-lanes.ts';
import { aborted, defaultIgnoreMs, LaneRuns, within } from './lane-runs.ts';
import { type Need, NeedWatch } from './need-watch.ts';
import type {
  Cancelled,
  CancelRequest,
  Claim,
  ClaimTerms,
  Resume,
  TenantLoad,
  WorkItem,
  WorkQueue,
  WorkRow,
} from './queue.ts';
import { workQueue } from './queue.ts';
import type { RetryRules } from './retry-delay.ts';
import { Upkeep } from './upkeep.ts';

export type { Lease } from './held-lanes.ts';
export type { Need } from './need-watch.ts';
export type { Cancelled, CancelRequest, Resume, TenantLoad, WorkItem, WorkRow } from './queue.ts';
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
  /**
   * Called instead of `run` for an item whose end was asked for before its claim, and after a run that threw once it was
   * asked for; must end the item with work_finish('cancelled') in its transaction, which is all that happens without it.
   * The signal of this lease aborts only when the lane is lost or the worker stops.
   */
  cancelled?(item: WorkItem, lease: Lease, cancel: unknown): Promise<void>;
  readonly retry?: Partial<RetryRules>;
  /**
   * Tries of an item that may end without an outcome, because the process died with them or `run` stored none; then it
   * fails with RETRY_BUDGET_SPENT. Default 5.
   */
  readonly maxLost?: number;
  /** A run that goes on for this long after its signal aborted loses its lane, and keeps its slot. Default 10 000. */
  readonly ignoreMs?: number;
  /** Nothing is claimed while it is missing here. */
  readonly needs?: Need;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** The label of work_waiting and work_oldest_seconds. */
  readonly queueName: string;
}

/** What a service's own function did in its transaction. */
export interface TakenWork<T> {
  readonly result: T;
  readonly claims: Claim[];
  readonly more: boolean;
  readonly cancelled?: readonly (Pick<WorkItem, 'tenant' | 'key' | 'id'> & { readonly cancel: unknown })[];
}

export interface WorkerDetail {
  readonly status: 'ok' | 'down';
  readonly size: number;
  readonly busy: number;
  readonly queued: number;
  readonly completed_total: number;
  readonly failed_total: number;
  /** Runs that ignore their signal: each keeps a slot until it ends. With every slot lost to them the worker is down. */
  readonly stuck: number;
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
   * round trip: `take` gets the free slots, and says what it claimed, whether more could be claimed now, and which running
   * items it cancelled: those that run in this process are told right after the commit.
   */
  claimWithin<T>(
    tx: Transaction,
    take: (slots: number, terms: ClaimTerms) => Promise<TakenWork<T>>,
  ): Promise<T>;
  /**
   * Asks for the end of items of a lane, in the caller's transaction; those that run in this process are told right after
   * its commit, in another one within a heartbeat. Answers what each was: the caller tells of those that were `waiting`.
   */
  cancel(tx: Transaction, request: CancelRequest): Promise<Cancelled[]>;
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
export function startWorker(
  options: WorkerOptions,
  queue: WorkQueue = workQueue(options.database, options.schema),
): Worker {
  const heartbeatMs = options.heartbeatMs ?? 500;
  if (options.leaseMs < heartbeatMs * 4 || options.leaseMs <= expiryMarginMs * 4) {
    throw asFault(new Error(`leaseMs ${options.leaseMs} is less than four heartbeats`));
  }
  return new LaneWorker(options, queue, heartbeatMs);
}

class LaneWorker implements Worker {
  readonly queue: WorkQueue;
  readonly #options: WorkerOptions;
  readonly #held = new HeldLanes();
  readonly #runs: LaneRuns;
  readonly #claims: Claims;
  readonly #heartbeat: Heartbeat;
  readonly #upkeep: Upkeep;
  readonly #need: NeedWatch | undefined;
  readonly #expiry: NodeJS.Timeout;
  readonly #retryTimers = new Set<NodeJS.Timeout>();
  #stopping = false;

  constructor(options: WorkerOptions, queue: WorkQueue, heartbeatMs: number) {
    const { owner, leaseMs, formats, log, needs } = options;
    this.#options = options;
    this.queue = queue;
    this.#need =
      needs &&
      new NeedWatch({
        need: needs,
        log,
        onUnable: (reason) => this.#held.endUnable(reason),
        onMet: () => this.#claims.wake(),
      });
    this.#runs = new LaneRuns({
      options,
      queue: this.queue,
      held: this.#held,
      onOver: (lane, why) => this.#heartbeat.dropped(lane, why),
      onFree: () => this.#claims.wake(),
      onUnable: () => this.#need?.missing(),
      onDueIn: (delayMs) => this.#wakeIn(delayMs),
    });
    this.#claims = new Claims({
      queue: this.queue,
      terms: { owner, leaseMs, formats },
      log,
      freeSlots: () => options.maxActive - this.#held.size - this.#runs.counts.stuck,
      mayTakeExpired: () => this.#heartbeat.mayTakeExpired,
      mayClaim: () => this.#need?.met ?? true,
      onClaim: (claim, sentAt) => this.#runs.start(claim, sentAt),
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
      ignoreMs: options.ignoreMs ?? defaultIgnoreMs,
      onStuck: (lane) => this.#runs.leaveStuck(lane),
    });
    this.#upkeep = new Upkeep(this.queue, options);
    // A heartbeat may hang; the clock does not.
    this.#expiry = setInterval(() => this.#held.expire(), expiryMarginMs / 2);
    this.#heartbeat.start();
    this.#claims.start();
    this.#upkeep.start();
    this.#need?.start();
    options.metrics.gauge(
      'worker_last_heartbeat_timestamp',
      { help: 'Unix time of the last heartbeat that renewed this process’s leases.' },
      () => (this.#heartbeat.lastGoodAt === undefined ? undefined : this.#heartbeat.lastGoodAt / 1000),
    );
    options.metrics.gauge(
      'work_stuck_runs',
      { help: 'Runs that ignore their signal; each keeps a slot.', labels: ['queue'] },
      () => [{ value: this.#runs.counts.stuck, labels: { queue: options.queueName } }],
    );
    options.metrics.gauge(
      'work_claims_paused',
      {
        help: '1 while this process claims nothing because what runs need is missing here.',
        labels: ['queue'],
      },
      () => [
        { value: this.#need === undefined || this.#need.met ? 0 : 1, labels: { queue: options.queueName } },
      ],
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
    take: (slots: number, terms: ClaimTerms) => Promise<TakenWork<T>>,
  ): Promise<T> {
    return this.#claims.within(tx, async (slots, terms) => {
      const taken = await take(slots, terms);
      const { cancelled = [] } = taken;
      if (cancelled.length > 0) {
        tx.afterCommit(() => {
          for (const item of cancelled) this.#held.cancel(item, item.id, item.cancel);
        });
      }
      return taken;
    });
  }

  async cancel(tx: Transaction, request: CancelRequest): Promise<Cancelled[]> {
    const { cancel = {} } = request;
    const found = await this.queue.cancel(tx, { ...request, cancel });
    tx.afterCommit(() => {
      for (const { id, was } of found) if (was === 'running') this.#held.cancel(request, id, cancel);
      this.wake();
    });
    return found;
  }

  active(): number {
    return this.#held.size;
  }

  load(): readonly TenantLoad[] {
    return this.#upkeep.load;
  }

  detail(): WorkerDetail {
    const { lastGoodAt } = this.#heartbeat;
    const { leaseMs, maxActive } = this.#options;
    const { completed, failed, stuck } = this.#runs.counts;
    const beats = lastGoodAt !== undefined && Date.now() - lastGoodAt < leaseMs;
    return {
      status: beats && stuck < maxActive ? 'ok' : 'down',
      size: maxActive,
      busy: this.#held.size,
      queued: this.#upkeep.load.reduce((sum, each) => sum + each.waiting, 0),
      completed_total: completed,
      failed_total: failed,
      stuck,
    };
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
    this.#runs.refuseNew();
    for (const timer of this.#retryTimers) clearTimeout(timer);
    this.#upkeep.stop();
    // What a claim under way still brings is handed over too, not left to the end of its lease.
    const allOver = this.#claims.stop().then(() => this.#runs.settled());
    await Promise.race([allOver, aborted(signal)]);
    this.#held.endAll('stop');
    await within(allOver, graceMs);
    if (this.#runs.size > 0) this.#options.log.error('work.stop_overran', { runs: this.#runs.size });
    await this.#heartbeat.stop();
    clearInterval(this.#expiry);
    this.#need?.stop();
  }
}
