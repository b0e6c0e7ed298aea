/**
 * When the brokers last answered the fetches of a member, by broker; monotonic milliseconds. A client fetches from each
 * leader by itself: while one is cut off from this process alone, the answers of the others would hide that its
 * partitions stand still.
 */
export class FetchTimes {
  /** A broker that was not asked for so long is not asked any more: it leads nothing of ours, or is gone. */
  readonly #forgetMs: number;
  readonly #brokers = new Map<unknown, { askedAt: number; answeredAt: number }>();
  #lastAnswerAt: number;

  constructor(forgetMs: number, now: number) {
    this.#forgetMs = forgetMs;
    this.#lastAnswerAt = now;
  }

  asked(broker: unknown, now: number): void {
    const known = this.#brokers.get(broker);
    if (known === undefined) this.#brokers.set(broker, { askedAt: now, answeredAt: now });
    else known.askedAt = now;
  }

  answered(broker: unknown, now: number): void {
    this.#lastAnswerAt = now;
    const known = this.#brokers.get(broker);
    if (known !== undefined) known.answeredAt = now;
  }

  /** A new assignment: whatever was silent before is asked anew. */
  restart(now: number): void {
    this.#brokers.clear();
    this.#lastAnswerAt = now;
  }

  /** The last answer of the broker that has been silent for longest, among those that are still asked. */
  lastAnswerAt(now: number): number {
    let oldest: number | undefined;
    for (const [broker, { askedAt, answeredAt }] of this.#brokers) {
      if (now - askedAt > this.#forgetMs) this.#brokers.delete(broker);
      else oldest = Math.min(answeredAt, oldest ?? answeredAt);
    }
    return oldest ?? this.#lastAnswerAt;
  }
}
