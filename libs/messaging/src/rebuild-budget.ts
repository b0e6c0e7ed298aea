/** Rebuilds that a subscription may need within its window before the process is beyond help. */
const maxRebuilds = 4;

/**
 * Counts the rebuilds that nothing outside explains: the broker answered others at that time. A broker that is away
 * never ends a process, however long it is away; a process whose own consumer does not recover beside a good broker is
 * better started anew (delivery rule 10).
 */
export class RebuildBudget {
  readonly #windowMs: number;
  #spentAt: number[] = [];

  /** The window is that of twice as many lives as the budget has, each as long as a broken one can look alive. */
  constructor(lifeMs: number) {
    this.#windowMs = 2 * (maxRebuilds + 1) * lifeMs;
  }

  /** Books one at this time (monotonic milliseconds); true when that was one too many. */
  spend(now: number): boolean {
    this.#spentAt = this.#spentAt.filter((at) => now - at < this.#windowMs);
    this.#spentAt.push(now);
    return this.#spentAt.length > maxRebuilds;
  }

  get spent(): number {
    return this.#spentAt.length;
  }
}
