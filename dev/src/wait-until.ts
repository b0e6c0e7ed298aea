import { setTimeout as delay } from 'node:timers/promises';
import { PartProblem } from './part-problem.ts';

export interface WaitOptions {
  readonly label: string;
  readonly timeoutMs: number;
  readonly intervalMs?: number;
  /** Ends the wait at once with this promise's rejection, such as the death of what is waited for. */
  readonly failure?: Promise<never>;
  /** Ends the wait with its reason. */
  readonly signal?: AbortSignal | undefined;
}

/** Polls until `ready` answers true; a PartProblem after `timeoutMs`. */
export async function waitUntil(
  ready: () => Promise<boolean> | boolean,
  options: WaitOptions,
): Promise<void> {
  const { label, timeoutMs, intervalMs = 25 } = options;
  const deadline = performance.now() + timeoutMs;
  let failed: { reason: unknown } | undefined;
  options.failure?.catch((reason: unknown) => {
    failed = { reason };
  });
  while (!(await ready())) {
    options.signal?.throwIfAborted();
    if (failed !== undefined) throw failed.reason;
    if (performance.now() > deadline)
      throw new PartProblem(`${label}: not ready after ${timeoutMs / 1000} s`);
    await delay(intervalMs);
  }
}
