import { pause } from '@signalbox/lifecycle/pause';
import {
  type Check,
  type CheckResult,
  type CheckStatus,
  type ProbeDetail,
  type Required,
  runProbe,
  toResult,
} from './check.ts';

export type { Check, ProbeDetail } from './check.ts';

/** What the board tells about changes, each once; the logger of `@signalbox/telemetry` is one. */
export interface BoardLog {
  info(event: string, fields?: Record<string, unknown>): void;
  warning(event: string, fields?: Record<string, unknown>): void;
}

export interface BoardOptions {
  readonly service: string;
  readonly version?: string;
  /** How long a check that is required `'after-grace'` may be down before the service is unready; 60 000 ms. */
  readonly graceMs?: number;
  readonly log?: BoardLog;
  /** Milliseconds of a clock that never goes back. */
  now?(): number;
}

export interface Answer {
  readonly code: 200 | 503;
  readonly body: Readonly<Record<string, unknown>>;
}

export interface Board {
  /** Adds a probe. It runs on its own timer from `start()` on, never inside a request. */
  add(check: Check): void;
  /** Sets a check that its owner knows the state of (worker_pool, outbox, breakers). Only degrades, unless `required`. */
  report(name: string, detail: ProbeDetail, required?: Required): void;
  /** Ends `starting`: from now on the checks decide. */
  markStarted(): void;
  /** `/ready` is 503 `draining` from this call on, for good. */
  markDraining(): void;
  /** GET /ready, from the last results. */
  readiness(): Answer;
  /** GET /health: 200 while ok or degraded. */
  health(): Answer;
  /** GET /healthz: 200 while every required check is good, with the body of `health()`. */
  healthz(): Answer;
  /** When the service was last ready, in seconds since 1970: `readiness_last_success_timestamp`. */
  lastSuccessTimestamp(): number | undefined;
  start(): void;
  stop(): void;
}

interface Entry {
  readonly name: string;
  readonly required: Required;
  readonly graceMs: number;
  result?: CheckResult;
  /** When the check stopped being good, or was added: grace counts from here. */
  badSince: number | undefined;
}

type Standing = 'good' | 'pending' | 'degraded' | 'failing';
type Phase = { name: 'starting' } | { name: 'serving' } | { name: 'draining' };
type Verdict = { status: 'ready' | 'starting' | 'draining' | 'unready'; reason?: string };

const statusRank: Record<CheckStatus, number> = { ok: 0, degraded: 1, down: 2 };
/** What is down is asked again this soon, so that a service is ready soon after the last thing it lacked is there. */
const downIntervalMs = 1_000;
/**
 * A probe that neither ends nor heeds its signal is not waited for beyond this, which doubles: a leak of two a minute at
 * most.
 */
const maxHungPauseMs = 30_000;

/** The board of one process. `/live` needs none; every other health route answers from here in microseconds. */
export function createBoard(options: BoardOptions): Board {
  const now = options.now ?? (() => performance.now());
  const boardGraceMs = options.graceMs ?? 60_000;
  const bornAt = now();
  const entries = new Map<string, Entry>();
  const checks: Check[] = [];
  const stopped = new AbortController();
  let phase: Phase = { name: 'starting' };
  let running = false;
  let lastReadyAt: number | undefined;
  let told: string | undefined;

  function standing(entry: Entry): Standing {
    const { result, required } = entry;
    if (result === undefined) return 'pending';
    if (result.status === 'ok') return 'good';
    if (result.status === 'degraded' || required === false) return 'degraded';
    const downForMs = entry.badSince === undefined ? 0 : now() - entry.badSince;
    return downForMs < entry.graceMs ? 'degraded' : 'failing';
  }

  function verdict(): Verdict {
    if (phase.name === 'draining') return { status: 'draining', reason: 'draining' };
    if (phase.name === 'starting') return { status: 'starting', reason: 'starting' };
    const required = [...entries.values()].filter((entry) => entry.required !== false);
    const failing = required.find((entry) => standing(entry) === 'failing');
    if (failing !== undefined) {
      const { result } = failing;
      const reason = result?.named === true && result.reason !== undefined ? result.reason : failing.name;
      return { status: 'unready', reason };
    }
    const pending = required.find((entry) => standing(entry) === 'pending');
    if (pending !== undefined) return { status: 'starting', reason: pending.name };
    return { status: 'ready' };
  }

  /** Looks whether anything has changed: the one place that logs it and keeps the time of the last success. */
  function reconsider(): void {
    const { status, reason } = verdict();
    if (status === 'ready') lastReadyAt = Date.now() / 1_000;
    const tale = `${status} ${reason ?? ''}`;
    if (tale === told) return;
    const first = told === undefined;
    told = tale;
    if (first && status === 'starting') return;
    const fields = { status, ...(reason === undefined ? {} : { reason }) };
    if (status === 'unready') options.log?.warning('readiness.changed', fields);
    else options.log?.info('readiness.changed', fields);
  }

  function record(entry: Entry, result: CheckResult): void {
    const before = entry.result;
    entry.result = result;
    if (result.status !== 'down') entry.badSince = undefined;
    else entry.badSince ??= result.at;
    if (before?.status !== result.status && (before !== undefined || result.status !== 'ok')) {
      const fields = {
        check: entry.name,
        from: before?.status ?? 'unknown',
        to: result.status,
        ...(result.reason === undefined ? {} : { reason: result.reason }),
      };
      const worse = statusRank[result.status] > statusRank[before?.status ?? 'ok'];
      if (worse) options.log?.warning('check.changed', fields);
      else options.log?.info('check.changed', fields);
    }
    reconsider();
  }

  async function probeForever(check: Check, entry: Entry): Promise<void> {
    const intervalMs = check.intervalMs ?? 2_000;
    let hungPauseMs = intervalMs;
    while (!stopped.signal.aborted) {
      const { result, settled } = await runProbe(check, now, stopped.signal);
      if (stopped.signal.aborted) return;
      record(entry, result);
      hungPauseMs = Math.min(hungPauseMs * 2, maxHungPauseMs);
      if (await settlesWithin(settled, hungPauseMs, stopped.signal)) hungPauseMs = intervalMs;
      const soon = result.status === 'down' ? Math.min(intervalMs, downIntervalMs) : intervalMs;
      await pause(soon, stopped.signal, { unref: true });
    }
  }

  function add(check: Check): void {
    if (entries.has(check.name)) throw new Error(`check ${check.name} is there already`);
    const graceMs = check.graceMs ?? (check.required === 'after-grace' ? boardGraceMs : 0);
    const entry: Entry = { name: check.name, required: check.required, graceMs, badSince: undefined };
    entries.set(check.name, entry);
    checks.push(check);
    if (running) void probeForever(check, entry);
  }

  function report(name: string, detail: ProbeDetail, required: Required = false): void {
    let entry = entries.get(name);
    if (entry === undefined) {
      entry = { name, required, graceMs: required === 'after-grace' ? boardGraceMs : 0, badSince: undefined };
      entries.set(name, entry);
    }
    record(entry, toResult(detail, 0, now()));
  }

  function shownChecks(): Record<string, unknown> {
    return Object.fromEntries(
      [...entries.values()].map(({ name, result }) => [
        name,
        result === undefined
          ? { status: 'unknown' }
          : {
              status: result.status,
              ...(result.reason === undefined ? {} : { reason: result.reason }),
              ...result.fields,
              latency_ms: result.latencyMs,
              age_ms: Math.round(now() - result.at),
            },
      ]),
    );
  }

  function healthBody(): { status: 'ok' | 'degraded' | 'down'; body: Record<string, unknown> } {
    const standings = [...entries.values()].map(standing);
    const status = standings.includes('failing')
      ? 'down'
      : standings.every((each) => each === 'good')
        ? 'ok'
        : 'degraded';
    const body = {
      status,
      service: options.service,
      version: options.version ?? 'unknown',
      uptime_seconds: Math.round((now() - bornAt) / 100) / 10,
      checks: shownChecks(),
    };
    return { status, body };
  }

  function enter(next: Phase): void {
    if (phase.name === 'draining') return;
    phase = next;
    reconsider();
  }

  return {
    add,
    report,
    markStarted: () => enter({ name: 'serving' }),
    markDraining: () => enter({ name: 'draining' }),
    readiness() {
      reconsider();
      const { status, reason } = verdict();
      if (status === 'ready') return { code: 200, body: { status } };
      return { code: 503, body: { status, reason, checks: shownChecks() } };
    },
    health() {
      const { status, body } = healthBody();
      return { code: status === 'down' ? 503 : 200, body };
    },
    healthz() {
      const bad = [...entries.values()].some(
        (entry) => entry.required !== false && ['failing', 'pending'].includes(standing(entry)),
      );
      return { code: bad ? 503 : 200, body: healthBody().body };
    },
    lastSuccessTimestamp: () => lastReadyAt,
    start() {
      if (running) return;
      running = true;
      for (const check of checks) {
        const entry = entries.get(check.name);
        if (entry !== undefined) void probeForever(check, entry);
      }
    },
    stop: () => stopped.abort(),
  };
}

async function settlesWithin(settled: Promise<void>, ms: number, stopped: AbortSignal): Promise<boolean> {
  const waited = new AbortController();
  try {
    return await Promise.race([
      settled.then(() => true),
      pause(ms, AbortSignal.any([stopped, waited.signal]), { unref: true }).then(() => false),
    ]);
  } finally {
    waited.abort();
  }
}
