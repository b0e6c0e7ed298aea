import { type Fault, fault } from '@signalbox/faults/fault';
import type { HeldLane, WorkItem } from './queue.ts';

/**
 * The right to work on a lane, as the running item sees it. Every write still carries owner and fence
 * (`work_hold` and the outcome functions): the lease only tells early what the database would refuse.
 */
export interface Lease {
  /**
   * Aborts when the lane is lost or may be lost (no good heartbeat for the lease time; LEASE_LOST), the worker stops
   * (DRAINING), what runs need is missing here (the need's code), or the item's end was asked for (CANCELLED). After the
   * last three the lane is still held.
   */
  readonly signal: AbortSignal;
  readonly owner: string;
  readonly fence: number;
  /**
   * Whether the lease stands at this moment by the monotonic clock. For what no database checks (direct records): after
   * a stall of the process other callbacks may run before the signal's timer does.
   */
  holds(): boolean;
  /** What the one who asked for the item's end gave, from before the signal aborts on; undefined: nobody asked. */
  cancelled(): unknown;
}

/** Why a lease ended early. `stop`: the worker drains. `unable`: others can. `lost`: another owner has it, or may soon. */
export type EndReason = 'stop' | 'unable' | 'lost';

const endFaults: Readonly<Record<'stop' | 'lost', () => Fault>> = {
  stop: () => fault('DRAINING', 'the worker stops'),
  lost: () => fault('LEASE_LOST', 'the lease ran out or another owner has the lane'),
};

/** A lane as the worker sees it that runs its item. */
export interface HeldItem {
  /** For the run. */
  readonly lease: Lease;
  /** For ending a cancelled item: its signal does not abort because of the cancel. */
  endingLease(): Lease;
  ended(): EndReason | undefined;
  end(reason: 'stop' | 'lost'): void;
  remove(): void;
}

interface Held {
  readonly item: WorkItem;
  readonly fence: number;
  readonly addedAt: number;
  expiresAt: number;
  /** Of the run; after a cancel, of what ends the item. */
  abort: AbortController;
  ended: EndReason | undefined;
  /** `lost` may follow the others, nothing follows `lost`. A cancel may come beside each. */
  cancel: unknown;
  /** Monotonic time of the first reason for the run to end. */
  toldAt: number | undefined;
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
  add(item: WorkItem, fence: number, owner: string, sentAt: number, leaseMs: number): HeldItem {
    const held: Held = {
      item,
      fence,
      addedAt: this.#now(),
      expiresAt: sentAt + leaseMs - expiryMarginMs,
      abort: new AbortController(),
      ended: undefined,
      cancel: item.cancel,
      toldAt: undefined,
    };
    const name = laneName(item);
    this.#held.set(name, held);
    const leaseOf = ({ signal }: AbortController): Lease => ({
      signal,
      owner,
      fence,
      holds: () => {
        if (held.ended !== 'lost' && this.#now() >= held.expiresAt) this.#end(held, 'lost');
        return held.ended !== 'lost';
      },
      cancelled: () => held.cancel,
    });
    return {
      lease: leaseOf(held.abort),
      endingLease: () => leaseOf(held.abort),
      ended: () => held.ended,
      end: (reason) => this.#end(held, reason),
      remove: () => {
        if (this.#held.get(name) === held) this.#held.delete(name);
      },
    };
  }

  /**
   * A good heartbeat: leases of the lanes it renewed count from when it was sent; lanes it no longer names are lost; runs
   * whose end was asked for, in any process, are told.
   */
  renewed(lanes: readonly HeldLane[], sentAt: number, leaseMs: number): void {
    const fences = new Map(lanes.map((lane) => [laneName(lane), lane]));
    for (const [name, held] of this.#held) {
      const lane = fences.get(name);
      if (lane?.fence === held.fence) {
        if (lane.renewed) held.expiresAt = Math.max(held.expiresAt, sentAt + leaseMs - expiryMarginMs);
        const { cancelled } = lane;
        if (cancelled?.id === held.item.id) this.#cancel(held, cancelled.cancel);
      } else if (held.addedAt < sentAt) {
        // Known here before the beat was sent and not known there. (A claim's commit and the beat may cross on the wire.)
        this.#end(held, 'lost');
      }
    }
  }

  /** The end of this item was asked for. Does nothing if it does not run here. */
  cancel(lane: Pick<HeldLane, 'tenant' | 'key'>, id: string, cancel: unknown): void {
    const held = this.#held.get(laneName(lane));
    if (held?.item.id === id) this.#cancel(held, cancel);
  }

  /** Ends the leases whose time has passed. */
  expire(): void {
    const now = this.#now();
    for (const held of this.#held.values()) {
      if (held.ended !== 'lost' && now >= held.expiresAt) this.#end(held, 'lost');
    }
  }

  /** Forgets, and answers with, the lanes whose run was told to end more than `ms` ago and ignores that. */
  dropStuck(ms: number): Pick<HeldLane, 'tenant' | 'key' | 'fence'>[] {
    const before = this.#now() - ms;
    const stuck = [...this.#held].filter(([, { toldAt }]) => toldAt !== undefined && toldAt < before);
    for (const [name, held] of stuck) {
      this.#end(held, 'lost');
      this.#held.delete(name);
    }
    return stuck.map(([, { item, fence }]) => ({ tenant: item.tenant, key: item.key, fence }));
  }

  endAll(reason: 'stop' | 'lost'): void {
    for (const held of this.#held.values()) this.#end(held, reason);
  }

  /** This process cannot go on with any of them, for `why`. */
  endUnable(why: Fault): void {
    for (const held of this.#held.values()) this.#end(held, 'unable', why);
  }

  #end(held: Held, reason: 'stop' | 'lost'): void;
  #end(held: Held, reason: 'unable', why: Fault): void;
  #end(held: Held, reason: EndReason, why?: Fault): void {
    if (held.ended === 'lost' || held.ended === reason) return;
    held.ended = reason;
    held.toldAt ??= this.#now();
    held.abort.abort(reason === 'unable' ? why : endFaults[reason]());
  }

  #cancel(held: Held, cancel: unknown): void {
    if (held.cancel !== undefined) return;
    held.cancel = cancel;
    held.toldAt ??= this.#now();
    const run = held.abort;
    // What ends the item has a signal of its own, for a stop or a loss that comes later.
    if (held.ended === undefined) held.abort = new AbortController();
    run.abort(fault('CANCELLED', 'somebody asked for the end of this work'));
  }
}
