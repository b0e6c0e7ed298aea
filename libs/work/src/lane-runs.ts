import { asFault, fault, isFault } from '@signalbox/faults/fault';
import type { Counter } from '@signalbox/telemetry/telemetry';
import { type HeldItem, type HeldLanes, type Lease, laneName } from './held-lanes.ts';
import type { Claim, HeldLane, WorkItem, WorkQueue } from './queue.ts';
import { defaultRetryRules, type RetryRules, retryDelayMs } from './retry-delay.ts';
import type { WorkerOptions } from './worker.ts';

export interface LaneRunsParts {
  readonly options: WorkerOptions;
  readonly queue: WorkQueue;
  readonly held: HeldLanes;
  /** A run is over. `returned`: it should have stored an outcome; `lost`: it did not. */
  onOver(lane: Pick<HeldLane, 'tenant' | 'key' | 'fence'>, why: 'lost' | 'returned'): void;
  /** A slot is free. */
  onFree(): void;
  /** A run ended for want of what others may have. */
  onUnable(): void;
  /** An item can be claimed again after this time. */
  onDueIn(delayMs: number): void;
}

/** A claimed item on its way here. */
interface Run {
  readonly item: WorkItem;
  readonly fence: number;
  readonly held: HeldItem;
  /** Whether the service's code was called for it. If not, it was no attempt, whatever becomes of it. */
  started: boolean;
  /** Settles when the process is done with it; never rejects. */
  over: Promise<void>;
}

const defaultMaxLost = 5;
export const defaultIgnoreMs = 10_000;

const fieldsOf = ({ item, fence }: Pick<Run, 'item' | 'fence'>) => ({
  tenantId: item.tenant,
  key: item.key,
  itemId: item.id,
  attempt: item.attempt,
  fence,
});

/** The items that run here: from their claim to how they ended. */
export class LaneRuns {
  readonly #parts: LaneRunsParts;
  readonly #rules: RetryRules;
  readonly #maxLost: number;
  readonly #ignoreMs: number;
  /** The run last started in a lane, until it settles: the next one of the lane waits for it. */
  readonly #runs = new Map<string, Run>();
  /** Runs that ignore their signal and lost their lane for it. */
  readonly #stuck = new Set<Run>();
  readonly #retryCount: Counter;
  readonly #failCount: Counter;
  #stopping = false;
  #completed = 0;
  #failed = 0;

  constructor(parts: LaneRunsParts) {
    const { retry, maxLost, ignoreMs, metrics } = parts.options;
    this.#parts = parts;
    this.#rules = { ...defaultRetryRules, ...retry };
    this.#maxLost = maxLost ?? defaultMaxLost;
    this.#ignoreMs = ignoreMs ?? defaultIgnoreMs;
    this.#retryCount = metrics.counter('work_retries_total', {
      help: 'Work that failed and runs again, by the code of its error.',
      labels: ['queue', 'code'],
    });
    this.#failCount = metrics.counter('work_failed_total', {
      help: 'Work that failed for good, by the code of its last error.',
      labels: ['queue', 'code'],
    });
  }

  get counts() {
    return { completed: this.#completed, failed: this.#failed, stuck: this.#stuck.size };
  }

  /** `sentAt`: the monotonic time when the claim was sent. */
  start({ item, fence }: Claim, sentAt: number): void {
    const { held: lanes, options, onFree } = this.#parts;
    const held = lanes.add(item, fence, options.owner, sentAt, options.leaseMs);
    if (this.#stopping) held.end('stop');
    const name = laneName(item);
    const before = this.#runs.get(name);
    const run: Run = { item, fence, held, started: false, over: Promise.resolve() };
    this.#runs.set(name, run);
    run.over = this.#runOne(run, before).finally(() => {
      held.remove();
      if (this.#runs.get(name) === run) this.#runs.delete(name);
      if (this.#stuck.delete(run)) options.log.warning('work.stuck_run_ended', fieldsOf(run));
      onFree();
    });
  }

  /** A heartbeat found that the run of this lane ignores its signal. */
  leaveStuck(lane: Pick<HeldLane, 'tenant' | 'key' | 'fence'>): void {
    const run = this.#runs.get(laneName(lane));
    if (run?.fence === lane.fence) this.#leaveStuck(run);
  }

  /** What is claimed from here on is handed over at once. */
  refuseNew(): void {
    this.#stopping = true;
  }

  /** Settles when every run has, but for those that are stuck. */
  async settled(): Promise<void> {
    await Promise.all([...this.#runs.values()].map(({ over }) => over));
  }

  get size(): number {
    return this.#runs.size;
  }

  /** Never rejects. */
  async #runOne(run: Run, before: Run | undefined): Promise<void> {
    const { options, onOver } = this.#parts;
    const { item, held } = run;
    let error: unknown;
    try {
      if (before !== undefined) await this.#waitFor(before, held.lease.signal);
      if (item.cancel === undefined && !this.#isLost(item)) {
        held.lease.signal.throwIfAborted();
        run.started = true;
        await options.run(item, held.lease);
        this.#completed += 1;
        onOver({ ...item, fence: run.fence }, 'returned');
        return;
      }
    } catch (thrown) {
      error = thrown;
    }
    // The end of a cancelled item comes behind the records of the run before, too.
    if (before !== undefined) await this.#waitFor(before, held.endingLease().signal);
    await this.#conclude(run, error);
  }

  /**
   * The run before has ended its item, hence this claim, but the process may not have handed its last records to the
   * producer yet, and the next run's must come behind them. One that does not return is told to stop and then left: its
   * fence is an old one, so it can write nothing, and its lease does not hold, so it sends nothing.
   */
  async #waitFor(before: Run, signal: AbortSignal): Promise<void> {
    if (this.#stuck.has(before)) return;
    const inTime = await within(Promise.race([before.over, aborted(signal)]), this.#ignoreMs);
    if (!inTime) this.#leaveStuck(before);
  }

  #leaveStuck(run: Run): void {
    const name = laneName(run.item);
    this.#parts.options.log.error('work.run_ignores_signal', fieldsOf(run));
    run.held.end('lost');
    if (this.#runs.get(name) === run) this.#runs.delete(name);
    this.#stuck.add(run);
  }

  #isLost({ lost = 0 }: WorkItem): boolean {
    return lost >= this.#maxLost;
  }

  /**
   * What becomes of an item that was not run, or whose run threw. Never rejects.
   *
   *   a stop comes while the claim is on its way, or while the item waits for the run before it in its lane
   *   handed over as a new attempt, a call that may run once would be told as `unknown`, though nothing has run
   */
  async #conclude(run: Run, error: unknown): Promise<void> {
    const { options, queue, onOver, onUnable } = this.#parts;
    const { log, database, owner, cancelled } = options;
    const { item, fence, held } = run;
    const fields = fieldsOf(run);
    const lane = { ...item, fence };
    const lease = held.endingLease();
    const cancel = lease.cancelled();
    const ended = held.ended();
    try {
      if (ended === 'lost' || isFault(error, 'LEASE_LOST')) {
        log.warning('work.lease_lost', fields);
        if (run.started) onOver(lane, 'lost');
      } else if (this.#isLost(item)) {
        run.started = true;
        await this.#fail(item, lease, fault('RETRY_BUDGET_SPENT', `${item.lost} tries left no outcome`));
      } else if (cancel !== undefined) {
        log.info('work.cancelled', fields);
        run.started = true;
        if (cancelled === undefined) await queue.finish(database, item, lease, 'cancelled');
        else await cancelled.call(options, item, lease, cancel);
        onOver(lane, 'returned');
      } else if (ended !== undefined || this.#isUnable(error)) {
        if (ended === undefined) onUnable();
        log.info('work.handed_over', { ...fields, started: run.started, error });
        if (run.started) await queue.handOver(database, item, lease);
        else await queue.letGo(lane, owner, false);
      } else {
        await this.#retryOrFail(item, lease, error);
      }
    } catch (failure) {
      // Not stored: the lane stays ours in the database until a heartbeat finds that nobody runs it.
      if (run.started) onOver(lane, 'lost');
      if (!isFault(failure, 'LEASE_LOST'))
        log.error('work.outcome_not_stored', { ...fields, error: failure });
    }
  }

  /** What this process lacks is no failure of the item. */
  #isUnable(error: unknown): boolean {
    const { handOverOn } = this.#parts.options.needs ?? {};
    return handOverOn !== undefined && isFault(error, handOverOn);
  }

  async #retryOrFail(item: WorkItem, lease: Lease, error: unknown): Promise<void> {
    const { options, queue, onDueIn } = this.#parts;
    const ageMs = Date.now() - item.enqueuedAt.getTime();
    const delayMs = retryDelayMs(error, item.retries, ageMs, this.#rules);
    if (delayMs === undefined) {
      await this.#fail(item, lease, error);
      return;
    }
    const fields = { ...fieldsOf({ item, fence: lease.fence }), delayMs: Math.round(delayMs) };
    options.log.warning('work.retried', { ...fields, error });
    const { code } = asFault(error);
    await queue.retry(options.database, item, lease, delayMs, code);
    this.#retryCount.add(1, { queue: options.queueName, code });
    onDueIn(delayMs);
  }

  /** For good: in the log, in the counts, on the row, and by `giveUp` where the client looks. */
  async #fail(item: WorkItem, lease: Lease, error: unknown): Promise<void> {
    const { options, queue } = this.#parts;
    const { code, message } = asFault(error);
    options.log.error('work.failed', { ...fieldsOf({ item, fence: lease.fence }), error });
    this.#failed += 1;
    this.#failCount.add(1, { queue: options.queueName, code });
    // A giveUp that itself leaves no outcome is not called for ever.
    const { giveUp } = options;
    if (giveUp !== undefined && (item.lost ?? 0) < 2 * this.#maxLost) {
      await giveUp.call(options, item, lease, error);
    } else {
      await queue.finish(options.database, item, lease, 'failed', `${code}: ${message}`);
    }
  }
}

export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

/** Whether it settled in time. Leaves no timer behind. */
export async function within(settles: Promise<void>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const tooLong = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), ms);
  });
  const inTime = await Promise.race([settles.then(() => true), tooLong]);
  clearTimeout(timer);
  return inTime;
}
