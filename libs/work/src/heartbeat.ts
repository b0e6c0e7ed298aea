import type { Logger } from '@signalbox/telemetry/telemetry';
import { type HeldLanes, laneName } from './held-lanes.ts';
import type { HeldLane, WorkQueue } from './queue.ts';

export interface HeartbeatOptions {
  readonly queue: Pick<WorkQueue, 'heartbeat' | 'letGo'>;
  readonly held: HeldLanes;
  readonly owner: string;
  readonly leaseMs: number;
  readonly everyMs: number;
  readonly log: Logger;
  /** When the oldest claim now under way was sent (monotonic); Infinity when there is none. */
  oldestClaimSentAt(): number;
  /** A lane was let go that nobody here ran: it can be claimed again. */
  onLetGo(): void;
  /** How long a run may ignore its signal before its lane is given back without it. */
  readonly ignoreMs: number;
  /** A run ignored it for that long: its lane is lost to it. */
  onStuck(lane: Pick<HeldLane, 'tenant' | 'key' | 'fence'>): void;
}

/** Why a run that was here is over without the worker knowing that an outcome was stored. */
type Dropped = 'lost' | 'returned';

/**
 * One statement every `everyMs` renews all lanes of the process, tells of lost ones, and is the measure of whether this
 * process is connected. It also finds lanes that the database says are ours and nobody here runs:
 *
 *   claim is sent, commits, its answer is lost with the connection   → lane held, item never started
 *   a run was dropped because the lease passed during an outage      → lane still ours, nobody took it
 *   a run ignored its signal and was dropped, or stored no outcome   → the same, and a try is lost
 *
 * Such a lane would be renewed for ever. It is let go once two beats in a row name it and no claim that could explain it
 * is still under way.
 */
export class Heartbeat {
  readonly #options: HeartbeatOptions;
  readonly #stop = new AbortController();
  /** Lanes named by a beat and unknown here, with the monotonic time of that beat. */
  #unknown = new Map<string, { fence: number; seenAt: number }>();
  /** Lanes whose run was here and is over: if they are still ours, the next claim is a new attempt. */
  readonly #dropped = new Map<string, { fence: number; why: Dropped; at: number }>();
  #steadySince: number | undefined;
  #lastGoodAt: number | undefined;
  /** Monotonic time at which the last good beat was sent. */
  #goodSentAt = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #beat: Promise<void> = Promise.resolve();
  #failing = false;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
  }

  start(): void {
    this.#schedule(0);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    clearTimeout(this.#timer);
    await this.#beat;
  }

  /** Epoch milliseconds of the last good beat; undefined before the first. */
  get lastGoodAt(): number | undefined {
    return this.#lastGoodAt;
  }

  /**
   * Whether expired leases may be taken: connected without a break for one lease time. After an outage of the database,
   * or when everything stood still with this process, every lease has expired, and each owner must have had its time to
   * renew before anybody takes from it.
   */
  get mayTakeExpired(): boolean {
    const { leaseMs, everyMs } = this.#options;
    const now = performance.now();
    if (this.#steadySince === undefined || now - this.#goodSentAt > leaseMs) return false;
    return now - this.#steadySince > leaseMs + everyMs;
  }

  /** Remembers how the run of this lane ended; most have stored an outcome, and the next beat does not name the lane. */
  dropped(lane: Pick<HeldLane, 'tenant' | 'key' | 'fence'>, why: Dropped): void {
    if (this.#dropped.size < 10_000)
      this.#dropped.set(laneName(lane), { fence: lane.fence, why, at: performance.now() });
  }

  #schedule(delayMs: number): void {
    if (this.#stop.signal.aborted) return;
    this.#timer = setTimeout(() => {
      const startedAt = performance.now();
      this.#beat = this.#once().finally(() => {
        this.#schedule(Math.max(0, this.#options.everyMs - (performance.now() - startedAt)));
      });
    }, delayMs);
  }

  async #once(): Promise<void> {
    const { queue, held, owner, leaseMs, log, ignoreMs, onStuck } = this.#options;
    const sentAt = performance.now();
    let lanes: HeldLane[];
    try {
      lanes = await queue.heartbeat(owner, leaseMs);
    } catch (error) {
      this.#steadySince = undefined;
      if (!this.#failing) log.warning('work.heartbeat_failed', { error });
      this.#failing = true;
      return;
    }
    if (this.#failing) log.info('work.heartbeat_back', {});
    this.#failing = false;
    // A beat that was sent before a long stop of the process, and answered after it, is older than it looks.
    if (sentAt - this.#goodSentAt > leaseMs || performance.now() - sentAt > leaseMs)
      this.#steadySince = undefined;
    this.#steadySince ??= performance.now();
    this.#goodSentAt = sentAt;
    this.#lastGoodAt = Date.now();
    held.renewed(lanes, sentAt, leaseMs);
    for (const lane of held.dropStuck(ignoreMs)) {
      this.dropped(lane, 'lost');
      onStuck(lane);
    }
    await this.#letGoUnknown(lanes, sentAt);
  }

  async #letGoUnknown(lanes: readonly HeldLane[], sentAt: number): Promise<void> {
    const { queue, held, owner, log, oldestClaimSentAt, onLetGo } = this.#options;
    const before = this.#unknown;
    this.#unknown = new Map();
    for (const lane of lanes) {
      if (held.has(lane)) continue;
      const name = laneName(lane);
      const known = before.get(name);
      const seenAt = known?.fence === lane.fence ? known.seenAt : sentAt;
      this.#unknown.set(name, { fence: lane.fence, seenAt });
      if (seenAt === sentAt || oldestClaimSentAt() <= seenAt) continue;
      const dropped = this.#dropped.get(name);
      const started = dropped?.fence === lane.fence;
      const fields = { tenantId: lane.tenant, key: lane.key };
      try {
        const gone = await queue.letGo(lane, owner, started);
        if (gone && started && dropped.why === 'returned') log.error('work.no_outcome', fields);
        if (gone) log.info('work.let_go', { ...fields, started });
        this.#unknown.delete(name);
        if (started) this.#dropped.delete(name);
        onLetGo();
      } catch (error) {
        log.debug('work.let_go_failed', { error });
        return;
      }
    }
    // A beat that was sent before a run was over, and answered after it, may be from before its claim: it does not know.
    const named = new Set(lanes.map(laneName));
    for (const [name, { at }] of this.#dropped)
      if (at < sentAt && !named.has(name)) this.#dropped.delete(name);
  }
}
