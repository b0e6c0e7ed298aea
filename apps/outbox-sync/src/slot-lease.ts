import { leaseSlots, releaseSlots } from '@signalbox/messaging/outbox-sql';
import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';

const leaseMs = 5_000;
const renewMs = 1_000;

/**
 * The share of the 64 slots that this relay works on. A lease only saves repeats: two relays on one slot send the same
 * rows twice and in the same order (delivery rule 6), so nothing is fenced and an expired lease needs no haste.
 */
export class SlotLease {
  readonly #database: Database;
  readonly #owner: string;
  readonly #log: Logger;
  #slots: readonly number[] = [];
  #until = 0;

  constructor(database: Database, owner: string, log: Logger) {
    this.#database = database;
    this.#owner = owner;
    this.#log = log;
  }

  /** The slots held now; none when the lease could not be renewed in time. */
  get slots(): readonly number[] {
    return performance.now() < this.#until ? this.#slots : [];
  }

  /** Renews until the signal, then gives the slots back. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const askedAt = performance.now();
      try {
        const slots = await leaseSlots(this.#database.urgent, this.#owner, leaseMs);
        if (slots.length !== this.#slots.length) this.#log.info('relay.slots', { slots: slots.length });
        this.#slots = slots;
        this.#until = askedAt + leaseMs;
      } catch (error) {
        this.#log.warning('relay.lease_failed', { error });
      }
      await sleep(renewMs, signal);
    }
    this.#slots = [];
    await releaseSlots(this.#database.urgent, this.#owner).catch(() => undefined);
  }
}

/** Waits, at most until the signal. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done, { once: true });
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    }
  });
}
