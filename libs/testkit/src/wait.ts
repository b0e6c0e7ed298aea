export interface WaitOptions {
  /** Default 10 000. */
  readonly timeoutMs?: number;
  /** Default 20. */
  readonly intervalMs?: number;
  /** What is waited for, in the error. */
  readonly label?: string;
}

/**
 * Reads until the value satisfies the predicate, and returns that value. Waits for a level ("has reached 3"), so what
 * happened before the call counts too. A read that throws counts as not yet. After `timeoutMs` it throws with the label
 * and the last value or error.
 */
export async function waitFor<T, S extends T>(
  read: () => T | Promise<T>,
  predicate: (value: T) => value is S,
  options?: WaitOptions,
): Promise<S>;
export async function waitFor<T>(
  read: () => T | Promise<T>,
  predicate: (value: T) => boolean,
  options?: WaitOptions,
): Promise<T>;
export async function waitFor<T>(
  read: () => T | Promise<T>,
  predicate: (value: T) => boolean,
  { timeoutMs = 10_000, intervalMs = 20, label = 'the awaited level' }: WaitOptions = {},
): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    let last: string;
    let cause: unknown;
    try {
      const value = await within(Promise.resolve(read()), end);
      if (predicate(value)) {
        return value;
      }
      last = `last value ${inspect(value)}`;
    } catch (error) {
      cause = error;
      last = `last error ${String(error)}`;
    }
    if (performance.now() >= end) {
      throw new Error(`${label}: not reached in ${timeoutMs} ms, ${last}`, { cause });
    }
    await sleep(intervalMs);
  }
}

/** For a pause that is itself what a test is about (a lease that must run out). Never to wait for a result. */
export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function within<T>(reading: Promise<T>, end: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error('the read itself did not return')),
      Math.max(end - performance.now(), 1),
    );
  });
  try {
    return await Promise.race([reading, late]);
  } finally {
    clearTimeout(timer);
  }
}

function inspect(value: unknown): string {
  const text =
    JSON.stringify(value, (_, part) => (typeof part === 'bigint' ? `${part}n` : part)) ?? String(value);
  return text.length > 2_000 ? `${text.slice(0, 2_000)}… (${text.length} characters)` : text;
}
