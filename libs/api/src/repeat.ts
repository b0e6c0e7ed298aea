import { pause } from '@signalbox/lifecycle/pause';

/** Runs `step` every `everyMs`, one at a time, until the signal aborts. What it throws goes to `onError` and ends nothing. */
export async function repeat(
  everyMs: number,
  step: () => Promise<unknown>,
  onError: (error: unknown) => void,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    try {
      await step();
    } catch (error) {
      onError(error);
    }
    await pause(everyMs, signal);
  }
}
