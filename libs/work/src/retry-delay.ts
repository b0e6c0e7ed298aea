import { asFault } from '@signalbox/faults/fault';

export interface RetryRules {
  /** Longest first pause; doubles with each retry. */
  readonly baseDelayMs: number;
  readonly maxDelayMs: number;
  /** Retries of one item before it fails for good. */
  readonly maxRetries: number;
  /** No retry of an item this old: nobody waits for it any more. */
  readonly maxAgeMs: number;
}

export const defaultRetryRules: RetryRules = {
  baseDelayMs: 200,
  maxDelayMs: 30_000,
  maxRetries: 5,
  maxAgeMs: 10 * 60_000,
};

/**
 * When to try a failed item again, or undefined: it has failed for good. Full jitter (any pause up to the bound, so that
 * items which failed together do not come back together); a fault's own retryAfterMs is the least. Pure but for `random`.
 *
 * A fault that says it is not retryable ends it at once. An unknown error may be a passing one: it has its tries.
 */
export function retryDelayMs(
  error: unknown,
  retries: number,
  ageMs: number,
  rules: RetryRules,
  random: () => number = Math.random,
): number | undefined {
  const { code, retryable, retryAfterMs } = asFault(error);
  if (!retryable && code !== 'INTERNAL_ERROR') return undefined;
  if (retries >= rules.maxRetries || ageMs >= rules.maxAgeMs) return undefined;
  const bound = Math.min(rules.maxDelayMs, rules.baseDelayMs * 2 ** retries);
  return Math.min(rules.maxDelayMs, Math.max(retryAfterMs ?? 0, random() * bound));
}
