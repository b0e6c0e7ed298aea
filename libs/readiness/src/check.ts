import { asFault, fault } from '@signalbox/faults/fault';

export type CheckStatus = 'ok' | 'degraded' | 'down';

/** What a probe or a report says beyond "it answered". Further fields appear in the check as they are (snake_case). */
export interface ProbeDetail {
  readonly status?: CheckStatus;
  /** One word why it is not ok (`schema`); becomes the reason of `/ready` where it makes the service unready. */
  readonly reason?: string;
  readonly [field: string]: unknown;
}

/**
 * `false`: only degrades. `true`: down makes the service unready at once, or after `graceMs` where that is given.
 * `'after-grace'`: degrades for the board's `graceMs`, then makes it unready (a gateway's Kafka and Redis).
 */
export type Required = boolean | 'after-grace';

export interface Check {
  readonly name: string;
  readonly required: Required;
  readonly graceMs?: number;
  /** Pause between two runs; 2 000 ms. */
  readonly intervalMs?: number;
  /** Bound of one run; 1 000 ms. Past it the check is down, whether or not the probe ever ends. */
  readonly timeoutMs?: number;
  /** Throws, or answers `status`, when the thing is not good. `signal` aborts at the bound and when the board stops. */
  // biome-ignore lint/suspicious/noConfusingVoidType: a probe with nothing to say returns nothing
  probe(signal: AbortSignal): Promise<ProbeDetail | undefined | void>;
}

export interface CheckResult {
  readonly status: CheckStatus;
  readonly reason?: string;
  /** Set where the probe named the reason itself, so that it stands for the check's name in `/ready`. */
  readonly named: boolean;
  readonly latencyMs: number;
  readonly at: number;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** Runs a probe once within its bound. Never throws, never takes longer than `timeoutMs`. */
export async function runProbe(
  check: Check,
  now: () => number,
  stopped: AbortSignal,
): Promise<{ result: CheckResult; settled: Promise<void> }> {
  const timeoutMs = check.timeoutMs ?? 1_000;
  const startedAt = now();
  const controller = new AbortController();
  const onStop = () => controller.abort(stopped.reason);
  stopped.addEventListener('abort', onStop, { once: true });
  let timer: NodeJS.Timeout | undefined;
  const bound = new Promise<never>((_, reject) => {
    const pass = () => {
      const passed = fault('TIMEOUT', `probe ${check.name} did not answer within ${timeoutMs} ms`);
      reject(passed);
      controller.abort(passed);
    };
    // An answer that came while this process was busy is read first: timers run before it.
    timer = setTimeout(() => setImmediate(pass), timeoutMs);
  });
  const answer = (async () => check.probe(controller.signal))();
  const settled = answer.then(
    () => undefined,
    () => undefined,
  );
  try {
    const detail = await Promise.race([answer, bound]);
    return { result: toResult(detail ?? {}, now() - startedAt, now()), settled };
  } catch (error) {
    return { result: toResult(failureDetail(error), now() - startedAt, now()), settled };
  } finally {
    clearTimeout(timer);
    stopped.removeEventListener('abort', onStop);
  }
}

export function toResult(detail: ProbeDetail, latencyMs: number, at: number): CheckResult {
  const { status = 'ok', reason, failure, ...fields } = detail;
  const shown = reason ?? (typeof failure === 'string' ? failure : undefined);
  return {
    status,
    ...(shown === undefined ? {} : { reason: shown }),
    named: reason !== undefined,
    latencyMs: Math.round(latencyMs * 10) / 10,
    at,
    fields,
  };
}

/** Only codes get out: the routes are open to everybody, and an error's message may tell addresses and names. */
function failureDetail(error: unknown): ProbeDetail {
  const { code, details } = asFault(error);
  const named = details?.reason;
  if (typeof named === 'string') return { status: 'down', reason: named };
  if (code === 'SCHEMA_OUTDATED') return { status: 'down', reason: 'schema' };
  if (code === 'WRONG_CLUSTER') return { status: 'down', reason: 'cluster' };
  return { status: 'down', failure: code };
}
