import { type Breaker, createBreaker } from '@signalbox/breaker/breaker';
import { asFault } from '@signalbox/faults/fault';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';

/** Hosts whose breakers are kept; the one that was not used for longest goes first. */
const maxHosts = 512;

/**
 * One breaker for each host that webhooks of a tenant go to, so that one that is down costs its own webhooks their time and no
 * others. By tenant, for many have URLs at one host (a chat, a relay), and what one of them has there may fail for ever. They
 * share one name in the metrics, which is bounded, and shows the worst.
 */
export function hostBreakers(options: {
  readonly timeoutMs: number;
  readonly log: Logger;
  readonly metrics: Metrics;
}) {
  const breakers = new Map<string, Breaker>();
  return {
    of(tenant: string, host: string): Breaker {
      const name = `${tenant} ${host}`;
      const found = breakers.get(name);
      const breaker =
        found ??
        createBreaker({
          name: 'webhook',
          timeoutMs: options.timeoutMs,
          errorThresholdPercentage: 50,
          resetTimeoutMs: 10_000,
          volumeThreshold: 5,
          counts: speaksAgainstHost,
          log: options.log.child({ host }),
          metrics: options.metrics,
        });
      breakers.delete(name);
      breakers.set(name, breaker);
      if (breakers.size > maxHosts) {
        const [oldest] = breakers.keys();
        if (oldest !== undefined) {
          breakers.get(oldest)?.close();
          breakers.delete(oldest);
        }
      }
      return breaker;
    },
    close(): void {
      for (const breaker of breakers.values()) breaker.close();
      breakers.clear();
    },
  };
}

/**
 * An answer that blames the request (a wrong path, a wrong secret) is of one tenant's URL: the host is well, and others
 * may have webhooks there. What was refused before it was called says nothing at all.
 */
export function speaksAgainstHost(error: unknown): boolean {
  const { code, details } = asFault(error);
  if (code === 'TIMEOUT') return true;
  if (code !== 'CALL_FAILED') return false;
  const status = details?.status;
  return typeof status !== 'number' || status >= 500 || status === 429;
}
