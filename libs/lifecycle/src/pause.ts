export interface PauseOptions {
  /** Does not keep the process alive. */
  readonly unref?: boolean;
}

/** Resolves after `delayMs`, or at once when the signal aborts. Never rejects: who waits looks at the signal. */
export function pause(delayMs: number, signal?: AbortSignal, options: PauseOptions = {}): Promise<void> {
  if (delayMs <= 0 || signal?.aborted === true) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, delayMs);
    if (options.unref === true) timer.unref();
    signal?.addEventListener('abort', done, { once: true });
  });
}
