import { fault } from '@signalbox/faults/fault';
import type { HeldLane, WorkItem } from './queue.ts';

/**
 * The right to work on a lane, as the running item sees it. Every write still carries owner and fence
 * (`work_hold` and the outcome functions): the lease only tells early what the database would refuse.
 */
export interface Lease {
  /** Aborts when the lane is lost, may be lost (no good heartbeat for the lease time), or the worker stops. */
  readonly signal: AbortSignal;
  readonly owner: string;
  readonly fence: number;
  /**
   * Whether the lease stands at this moment by the monotonic clock. For what no database checks (direct records): after
   * a stall of the process other callbacks may run before the signal's timer does.
   */
  holds(): boolean;
}

/** Why a lease ended early. `stop`: the worker drains. `lost`: another owner has it, or may soon. */
export type EndReason = 'stop' | 'lost';

interface Held {
  readonly item: WorkItem;
  readonly fence: number;
  readonly abort: AbortController;
  readonly addedAt: number;
  expiresAt: number;
  ended: EndReason | undefined;
  endedAt: number;
}

/** How early before its end a lease counts as over: the pace at which it is looked at, and then some. */
export const expiryMarginMs = 250;

/** Tenants hold no space. */
export const laneName = (lane: Pick<HeldLane, 'tenant' | 'key'>) => `${lane.tenant} ${lane.key}`;

/** What this process holds, with the monotonic end of each lease. No I/O. */
export class HeldLanes {
  readonly #held = new Map<string, Held>();
  readonly #now: () => number;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  get size(): number {
    return this.#held.size;
  }

  has(lane: HeldLane): boolean {
    return this.#held.get(laneName(lane))?.fence === lane.fence;
  }

  /** `sentAt`: the monotonic time when the claim was sent, so before the database began to count. */
  add(
    item: WorkItem,
    fence: number,
    owner: string,
    sentAt: number,
    leaseMs: number,
  ): { lease: Lease; ended(): EndReason | undefined; end(reason: EndReason): void; remove(): void } {
    const held: Held = {
      item,
      fence,
      abort: new AbortController(),
      addedAt: this.#now(),
      expiresAt: sentAt + leaseMs - expiryMarginMs,
      ended: undefined,
      endedAt: 0,
    };
    const name = laneName(item);
    this.#held.set(name, held);
    const lease: Lease = {
      signal: held.abort.signal,
      owner,
      fence,
      holds: () => {
        if (held.ended === undefined && this.#now() >= held.expiresAt) this.#end(held, 'lost');
        return held.ended !== 'lost';
      },
    };
    return {
      lease,
      ended: () => held.ended,
      end: (reason) => this.#end(held, reason),
      remove: () => {
        if (this.#held.get(name) === held) this.#held.delete(name);
      },
    };
  }

  /** A good heartbeat: leases of the lanes it renewed count from when it was sent; lanes it no longer names are lost. */
  renewed(lanes: readonly HeldLane[], sentAt: number, leaseMs: number): void {
    const fences = new Map(lanes.map((lane) => [laneName(lane), lane]));
    for (const [name, held] of this.#held) {
      const lane = fences.get(name);
      if (lane?.fence === held.fence) {
        if (lane.renewed) held.expiresAt = Math.max(held.expiresAt, sentAt + leaseMs - expiryMarginMs);
      } else if (held.addedAt < sentAt) {
        // Known here before the beat was sent and not known there. (A claim's commit and the beat may cross on the wire.)
        this.#end(held, 'lost');
      }
    }
  }

  /** Ends the leases whose time has passed. */
  expire(): void {
    const now = this.#now();
    for (const held of this.#held.values()) {
      if (held.ended === undefined && now >= held.expiresAt) this.#end(held, 'lost');
    }
  }

  /** Forgets, and answers with, the items whose lease ended more than `ms` ago and whose run ignores that. */
  dropStuck(ms: number): WorkItem[] {
    const before = this.#now() - ms;
    const stuck = [...this.#held].filter(([, held]) => held.ended !== undefined && held.endedAt < before);
    for (const [name] of stuck) this.#held.delete(name);
    return stuck.map(([, held]) => held.item);
  }

  endAll(reason: EndReason): void {
    for (const held of this.#held.values()) this.#end(held, reason);
  }

  #end(held: Held, reason: EndReason): void {
    if (held.ended !== undefined) return;
    held.ended = reason;
    held.endedAt = this.#now();
    held.abort.abort(
      reason === 'lost'
        ? fault('LEASE_LOST', 'the lease ran out or another owner has the lane')
        : fault('DRAINING', 'the worker stops'),
    );
  }
}
