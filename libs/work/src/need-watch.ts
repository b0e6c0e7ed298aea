import { type Fault, fault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';

/**
 * What runs need besides the database, as this process alone sees it: its own way to the broker. Another process may have
 * it while this one does not.
 */
export interface Need {
  readonly name: string;
  /** How long this process has waited for an answer of it, in milliseconds; 0 while it answers or is not asked. */
  waitingMs(): number;
  /** Rejects while it does not answer. Called once a second at most, and only while nothing is claimed. */
  probe(): Promise<unknown>;
  /**
   * Without it runs cannot end, and fail with this code: then they are handed over, which costs none of their tries. Left
   * out, runs go on: they can end without it.
   */
  readonly handOverOn?: 'KAFKA_UNAVAILABLE';
}

export interface NeedWatchOptions {
  readonly need: Need;
  readonly log: Logger;
  /** What runs here must be handed over. Called again while that lasts. */
  onUnable(reason: Fault): void;
  /** There may be something to claim. */
  onMet(): void;
}

/** A broker that elects a leader, or a slow batch, is not waited for as long. */
const pauseAfterMs = 2_000;
/** Longer than most restarts of a broker's connection; the model's answer is lost with the run. */
const handOverAfterMs = 5_000;
const lookEveryMs = 250;
/** A process that stood still finds answers that have long been there. */
const stoodStillMs = 1_000;
const probeEveryMs = 1_000;
/** One that answers to probes and not to runs: each claim for nothing makes the next pause twice as long, up to this. */
const longestPauseMs = 8_000;
const steadyMs = 60_000;

/**
 * Stops claiming while a need is not met, and hands over what is held when that lasts.
 *
 *   A is cut off from the broker alone; its database and its heartbeats are good, so its leases last
 *   its turns wait for acknowledgements, fail after 30 s, and their retries are due first in the process that waits for
 *   them: A claims them again, four times, until they have failed for good, with B idle beside it
 *
 * When nobody has the broker nobody claims: the items wait as they are, and go on when it is back.
 */
export class NeedWatch {
  readonly #options: NeedWatchOptions;
  #state:
    | { readonly at: 'met'; readonly since: number }
    | { readonly at: 'missing'; probeAt: number; probing: boolean };
  #pauseMs = probeEveryMs;
  #timer: NodeJS.Timeout | undefined;
  #lookedAt = 0;

  constructor(options: NeedWatchOptions) {
    this.#options = options;
    this.#state = { at: 'met', since: Number.NEGATIVE_INFINITY };
  }

  get met(): boolean {
    return this.#state.at === 'met';
  }

  start(): void {
    this.#lookedAt = performance.now();
    this.#timer = setInterval(() => this.#look(), lookEveryMs);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** A run ended for want of it. */
  missing(): void {
    if (this.#state.at === 'missing') return;
    const { need, log } = this.#options;
    const now = performance.now();
    const steady = now - this.#state.since > steadyMs;
    this.#pauseMs = steady ? probeEveryMs : Math.min(longestPauseMs, this.#pauseMs * 2);
    this.#state = { at: 'missing', probeAt: now + this.#pauseMs, probing: false };
    log.warning('work.claims_paused', { need: need.name, waitingMs: Math.round(need.waitingMs()) });
  }

  #look(): void {
    const now = performance.now();
    const stoodStill = now - this.#lookedAt > stoodStillMs;
    this.#lookedAt = now;
    if (stoodStill) return;
    const { need, onUnable } = this.#options;
    const waitingMs = need.waitingMs();
    if (waitingMs > pauseAfterMs) this.missing();
    if (waitingMs > handOverAfterMs && need.handOverOn !== undefined) {
      onUnable(fault(need.handOverOn, `no answer of ${need.name} for ${Math.round(waitingMs)} ms`));
    }
    const state = this.#state;
    if (state.at === 'met' || state.probing || now < state.probeAt || waitingMs > pauseAfterMs) return;
    state.probing = true;
    need.probe().then(
      () => this.#back(),
      () => {
        state.probing = false;
        state.probeAt = performance.now() + probeEveryMs;
      },
    );
  }

  #back(): void {
    if (this.#timer === undefined) return;
    this.#state = { at: 'met', since: performance.now() };
    this.#options.log.info('work.claims_resumed', { need: this.#options.need.name });
    this.#options.onMet();
  }
}
