import { pause } from './pause.ts';

/**
 * Runs `step` every `everyMs`, give or take a tenth so that replicas do not look in the same moment, one at a time, until
 * the signal aborts. What it throws goes to `onError` and ends nothing; `again` says that the step before has failed too.
 */
export async function repeat(
  everyMs: number,
  step: () => Promise<unknown>,
  onError: (error: unknown, again: boolean) => void,
  signal: AbortSignal,
): Promise<void> {
  let failing = false;
  while (!signal.aborted) {
    try {
      await step();
      failing = false;
    } catch (error) {
      onError(error, failing);
      failing = true;
    }
    await pause(everyMs * (0.9 + Math.random() * 0.2), signal);
  }
}
