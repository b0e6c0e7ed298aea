import { pause } from '@signalbox/lifecycle/pause';

/** What the registry does with an open stream, of either kind. */
export interface RegisteredStream {
  /** Called each second: keepalive, and the end of a peer that takes nothing any more. */
  sweep(now: number): void;
  /** Ends it cleanly and tells the client to come back after `retryMs`. */
  drain(retryMs: number): void;
  destroy(): void;
}

export interface StreamRegistry {
  add(stream: RegisteredStream): void;
  remove(stream: RegisteredStream, reason: string): void;
  readonly size: number;
  readonly draining: boolean;
  /** Ends every stream, spread over time so that its clients do not come back in one moment; waits for none. */
  drain(signal: AbortSignal): Promise<void>;
  stop(): void;
}

/** Delivery rule 29: many streams end over this long, a few at once. */
const maxSpreadMs = 5000;
const spreadPerStreamMs = 2;
const sweepMs = 1000;

/**
 * All open streams of a server, with one timer for their keepalives: ten thousand streams cost one pass a second
 * instead of ten thousand timers.
 */
export function createStreamRegistry(
  onEnd: (reason: string) => void,
  random: () => number = Math.random,
): StreamRegistry {
  const streams = new Set<RegisteredStream>();
  let draining = false;
  const sweep = setInterval(() => {
    const now = performance.now();
    for (const stream of streams) stream.sweep(now);
  }, sweepMs).unref();

  return {
    add: (stream) => void streams.add(stream),
    remove(stream, reason) {
      if (streams.delete(stream)) onEnd(reason);
    },
    get size() {
      return streams.size;
    },
    get draining() {
      return draining;
    },
    async drain(signal) {
      draining = true;
      const open = [...streams];
      const spreadMs = Math.min(maxSpreadMs, open.length * spreadPerStreamMs);
      const tickMs = 50;
      const perTick = Math.max(1, Math.ceil((open.length * tickMs) / Math.max(spreadMs, tickMs)));
      while (open.length > 0) {
        for (const stream of open.splice(0, signal.aborted ? open.length : perTick)) {
          stream.drain(250 + random() * maxSpreadMs);
        }
        if (open.length > 0) await pause(tickMs, signal);
      }
    },
    stop() {
      clearInterval(sweep);
      for (const stream of [...streams]) stream.destroy();
    },
  };
}
