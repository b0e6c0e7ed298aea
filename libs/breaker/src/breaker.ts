import { asFault, type Fault, fault, isFault } from '@signalbox/faults/fault';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import CircuitBreaker from 'opossum';

export type BreakerState = 'closed' | 'open' | 'half-open';

export interface BreakerOptions {
  /** Label of its metrics (`model:default`). Those of one name are shown as one, in the state of the worst. */
  readonly name: string;
  /** Bound of one call; past it the call's signal aborts and the caller gets TIMEOUT. */
  readonly timeoutMs: number;
  /** Opens when more than this share of the calls of the last 10 s failed. */
  readonly errorThresholdPercentage: number;
  /** How long it stays open before one call may try. */
  readonly resetTimeoutMs: number;
  /** Does not open before so many calls within the last 10 s. */
  readonly volumeThreshold: number;
  /** Whether an error speaks against the outside system; a refusal of our own input does not. All but ABORTED by default. */
  counts?(error: unknown): boolean;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** Told of each change, for the board's `breakers` check. */
  onTransition?(to: BreakerState): void;
}

export interface Breaker {
  readonly name: string;
  readonly state: BreakerState;
  /**
   * Calls `action` unless the breaker is open. `fallback` answers instead when it is, when the call took too long, or
   * failed with an error that counts.
   * @throws BREAKER_OPEN (with the time to wait), TIMEOUT, or what the action threw
   */
  run<T>(
    action: (signal: AbortSignal) => Promise<T>,
    fallback?: (error: Fault) => Promise<T> | T,
  ): Promise<T>;
  /** Ends its timers and its metrics. */
  close(): void;
}

const stateValues: Record<BreakerState, number> = { closed: 0, 'half-open': 1, open: 2 };

/**
 * A circuit breaker: closed → open → half-open → closed or open again.
 *
 * opossum counts and decides; two things it gets wrong are kept from it. In half-open it takes the result of *any* call
 * for the probe's: one that began before the breaker opened and ends late would close it without a probe, or reopen it
 * so that a second probe starts beside the first. So each call remembers the period it began in, and a result from an
 * earlier period reaches its caller and not the breaker. And its abort controller is one for all calls; here each call
 * has its own signal and its own clock.
 */
export function createBreaker(options: BreakerOptions): Breaker {
  const { name, timeoutMs, resetTimeoutMs, log, metrics } = options;
  let period = 0;
  let openedAt = 0;

  const counts = options.counts ?? ((error) => !isFault(asFault(error), 'ABORTED'));
  const circuit: CircuitBreaker<[attempt: () => Promise<void>], void> = new CircuitBreaker(
    (attempt: () => Promise<void>) => attempt(),
    {
      name,
      timeout: false,
      errorThresholdPercentage: options.errorThresholdPercentage,
      resetTimeout: resetTimeoutMs,
      volumeThreshold: options.volumeThreshold,
      rollingPercentilesEnabled: false,
      enableSnapshots: false,
      // opossum takes a filtered error for a success. A probe that was aborted has shown nothing, so it must not close.
      errorFilter: (error: unknown) =>
        !counts(error) && !(circuit.halfOpen && isFault(asFault(error), 'ABORTED')),
    },
  );

  const transitions = metrics.counter('circuit_breaker_transitions_total', {
    help: 'Changes of state of a circuit breaker.',
    labels: ['name', 'to'],
  });
  const hideState = showState(metrics, name, () => stateValues[state()]);

  function state(): BreakerState {
    if (circuit.opened) return 'open';
    return circuit.halfOpen ? 'half-open' : 'closed';
  }

  function onTransition(to: BreakerState): void {
    period += 1;
    if (to === 'open') openedAt = performance.now();
    transitions.add(1, { name, to });
    if (to === 'open') log.warning('breaker.opened', { breaker: name, resetTimeoutMs });
    else log.info(to === 'closed' ? 'breaker.closed' : 'breaker.half_open', { breaker: name });
    options.onTransition?.(to);
  }
  circuit.on('open', () => onTransition('open'));
  circuit.on('halfOpen', () => onTransition('half-open'));
  circuit.on('close', () => onTransition('closed'));

  /** Asks the circuit whether a call may start, and if so tells it how the call ended, unless the period is over. */
  function admit<T>(call: () => Promise<T>): Promise<T> | undefined {
    let started: Promise<T> | undefined;
    const began = period;
    const attempt = () =>
      new Promise<void>((resolve, reject) => {
        started = call();
        started.then(
          () => began === period && resolve(),
          (error: unknown) => began === period && reject(error),
        );
      });
    // The caller gets the call's own result; the circuit's copy of it must not become an unhandled rejection.
    circuit.fire(attempt).catch(() => undefined);
    return started;
  }

  function refusal(): Fault {
    const leftMs = state() === 'open' ? resetTimeoutMs - (performance.now() - openedAt) : timeoutMs;
    return fault('BREAKER_OPEN', `${name} is not called: it failed too often`, {
      retryAfterMs: Math.max(1, Math.ceil(leftMs)),
    });
  }

  return {
    name,
    get state() {
      return state();
    },
    async run(action, fallback) {
      try {
        const running = admit(() => bounded(name, timeoutMs, action));
        if (running === undefined) throw refusal();
        return await running;
      } catch (error) {
        if (fallback === undefined || !(isFault(error, 'BREAKER_OPEN') || counts(error))) throw error;
        return fallback(asFault(error));
      }
    },
    close() {
      circuit.shutdown();
      hideState();
    },
  };
}

type States = Map<string, Set<() => number>>;
const shown = new WeakMap<Metrics, States>();

/**
 * Adds a breaker to the gauge; returns a function that takes it out. One gauge for all: two breakers may have one name (a
 * profile that was changed, or two tenants' profiles), and a series of the healthy one must not hide the other.
 */
function showState(metrics: Metrics, name: string, read: () => number): () => void {
  let states = shown.get(metrics);
  if (states === undefined) {
    const all: States = new Map();
    states = all;
    shown.set(metrics, all);
    metrics.gauge(
      'circuit_breaker_state',
      { help: 'State of a circuit breaker: 0 closed, 1 half-open, 2 open.', labels: ['name'] },
      () =>
        [...all]
          .filter(([, readers]) => readers.size > 0)
          .map(([each, readers]) => ({
            value: Math.max(...[...readers].map((one) => one())),
            labels: { name: each },
          })),
    );
  }
  const readers = states.get(name) ?? new Set();
  states.set(name, readers.add(read));
  return () => {
    readers.delete(read);
    if (readers.size === 0) states.delete(name);
  };
}

/** Runs an action within its bound; past it the signal aborts and nobody waits for the action any more. */
async function bounded<T>(
  name: string,
  timeoutMs: number,
  action: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const passed = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const late = fault('TIMEOUT', `${name} did not answer within ${timeoutMs} ms`);
      reject(late);
      controller.abort(late);
    }, timeoutMs);
  });
  try {
    return await Promise.race([action(controller.signal), passed]);
  } finally {
    clearTimeout(timer);
  }
}
