import type { Transaction } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { Claim, ClaimTerms, WorkQueue } from './queue.ts';

export interface ClaimsOptions {
  readonly queue: WorkQueue;
  readonly terms: ClaimTerms;
  readonly log: Logger;
  /** Slots that no item occupies now. */
  freeSlots(): number;
  mayTakeExpired(): boolean;
  /** While false nothing is claimed and no intake is promised a slot. */
  mayClaim(): boolean;
  /** `sentAt`: monotonic time before the claim was sent; the lease counts from there. */
  onClaim(claim: Claim, sentAt: number): void;
}

interface UnderWay {
  readonly sentAt: number;
  slots: number;
}

/** Other replicas' intakes, retries that came due and leases that ran out are looked for at this pace. */
const pollMs = 1000;
const largestClaim = 64;

/**
 * When to claim and how much. One claim statement at a time: calls of `wake` meanwhile become one more claim behind it.
 * Slots promised to intake transactions under way are not promised twice.
 */
export class Claims {
  readonly #options: ClaimsOptions;
  /** Monotonic send times of what may still bring claims: the statement under way and open intake transactions. */
  readonly #underWay = new Set<UnderWay>();
  #poll: NodeJS.Timeout | undefined;
  #claiming: Promise<void> | undefined;
  #again = false;
  #expiredToo = false;
  #after = '';
  #stopped = false;
  #failing = false;
  #onIdle: (() => void) | undefined;

  constructor(options: ClaimsOptions) {
    this.#options = options;
  }

  start(): void {
    // Not in step with the other replicas.
    const everyMs = pollMs * (0.9 + Math.random() * 0.2);
    this.#poll = setInterval(() => {
      this.#expiredToo = true;
      this.wake();
    }, everyMs);
    this.wake();
  }

  /** Resolves when nothing under way can bring a claim any more. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#poll);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onIdle = resolve;
    if (this.#underWay.size === 0) resolve();
    await promise;
  }

  get oldestSentAt(): number {
    let oldest = Number.POSITIVE_INFINITY;
    for (const { sentAt } of this.#underWay) oldest = Math.min(oldest, sentAt);
    return oldest;
  }

  wake(): void {
    if (this.#stopped) return;
    if (this.#claiming !== undefined) {
      this.#again = true;
      return;
    }
    if (this.#free() <= 0) return;
    this.#claiming = this.#claimAll().finally(() => {
      this.#claiming = undefined;
      if (!this.#again) return;
      this.#again = false;
      this.wake();
    });
  }

  #free(): number {
    let promised = 0;
    for (const { slots } of this.#underWay) promised += slots;
    return this.#options.mayClaim() ? this.#options.freeSlots() - promised : 0;
  }

  async #claimAll(): Promise<void> {
    for (;;) {
      const limit = Math.min(this.#free(), largestClaim);
      if (limit <= 0 || this.#stopped) return;
      this.#again = false;
      const found = await this.#claimOnce(limit);
      if (found < limit) return;
    }
  }

  async #claimOnce(limit: number): Promise<number> {
    const { queue, terms, log, mayTakeExpired, onClaim } = this.#options;
    const takeExpired = this.#expiredToo && mayTakeExpired();
    this.#expiredToo = false;
    const mark = { sentAt: performance.now(), slots: limit };
    this.#underWay.add(mark);
    try {
      const claims = await queue.claim(terms, limit, takeExpired, this.#after);
      for (const claim of claims) onClaim(claim, mark.sentAt);
      this.#over(mark);
      this.#after = claims.at(-1)?.item.tenant ?? this.#after;
      if (this.#failing) log.info('work.claim_back', {});
      this.#failing = false;
      return claims.length;
    } catch (error) {
      this.#over(mark);
      if (!this.#failing) log.warning('work.claim_failed', { error });
      this.#failing = true;
      return 0;
    }
  }

  #over(mark: UnderWay): void {
    this.#underWay.delete(mark);
    if (this.#underWay.size === 0) this.#onIdle?.();
  }

  /**
   * For an intake: promises it the free slots, and starts what its statement claimed once its transaction has committed.
   * When it did not commit nothing was claimed; when that is unknown, the heartbeat finds what was (see there).
   */
  async within<T>(
    tx: Transaction,
    send: (slots: number, terms: ClaimTerms) => Promise<{ result: T; claims: Claim[]; more: boolean }>,
  ): Promise<T> {
    const slots = this.#stopped ? 0 : Math.max(0, Math.min(this.#free(), largestClaim));
    const mark = { sentAt: performance.now(), slots };
    this.#underWay.add(mark);
    tx.afterRollback(() => this.#over(mark));
    const { result, claims, more } = await send(slots, this.#options.terms);
    mark.slots = claims.length;
    tx.afterCommit(() => {
      for (const claim of claims) this.#options.onClaim(claim, mark.sentAt);
      this.#over(mark);
      // What found no slot here, or a lane that was waiting or held and may be free by now.
      if (more) this.wake();
    });
    return result;
  }
}
