import { fault, isFault } from '@signalbox/faults/fault';
import { bootLog, writeLine } from './boot-log.ts';
import { pause } from './pause.ts';
import { runPhase, type StepReport, type StopPhase, type StopStep, stopPhases } from './stop-sequence.ts';

export { type StepReport, type StopPhase, type StopStep, stopPhases } from './stop-sequence.ts';

/** What the stop sequence writes to: events with fields. The logger of `@signalbox/telemetry` is one. */
export interface LifecycleLog {
  info(event: string, fields?: Record<string, unknown>): void;
  error(event: string, fields?: Record<string, unknown>): void;
  critical(event: string, fields?: Record<string, unknown>): void;
}

export interface StopReport {
  readonly reason: string;
  /** `forced`: the whole stop had no more time; steps were cut off for it, or what was still running was left behind. */
  readonly outcome: 'drained' | 'forced';
  readonly durationMs: number;
  readonly steps: readonly StepReport[];
  /** Steps that passed a bound, theirs or that of the whole, and what was running when the stop was forced. */
  readonly overran: readonly string[];
  readonly failed: readonly string[];
}

export interface LifecycleOptions {
  /** How long requests are still served after readiness has turned to `draining`; inside `stopTimeoutMs`. */
  readonly drainDelayMs: number;
  /** Bound of the whole stop. */
  readonly stopTimeoutMs: number;
  readonly log: LifecycleLog;
  /** Called when all is done but the health port: here the duration is observed, and can still be scraped. */
  onStopped?(report: StopReport): void | Promise<void>;
  /** Wraps the phases up to the pools, so that main can open the `shutdown` span around them. */
  aroundStop?(run: () => Promise<StopReport>): Promise<unknown>;
  /** Told of each step as it ends. */
  onStep?(report: StepReport): void;
}

export interface Lifecycle {
  /** Aborts the moment a stop begins, before the drain delay. What must go on serving takes the signal of its step. */
  readonly stopEvent: AbortSignal;
  /** Registers a step. One registered while the stop is under way runs with the next phase. */
  onStop(step: StopStep): void;
  configure(options: LifecycleOptions): void;
  /**
   * Runs a main loop. Its signal aborts when the drain delay is over; the `work` phase waits for it. A loop that ends
   * or throws before a stop was asked for starts the stop, and the process exits 70.
   */
  background(name: string, loop: (signal: AbortSignal) => Promise<void>): void;
  /** Starts the stop, or joins the one under way. Resolves when it is over; never rejects. */
  stop(reason: string): Promise<void>;
}

/** What only `runMain` sees of a lifecycle. */
export interface DrivenLifecycle extends Lifecycle {
  /** Says that the process has failed: it will exit 70 after the drain. */
  fail(event: string, error: unknown): void;
  readonly state: LifecycleState;
  readonly log: LifecycleLog;
  /** Steps under way now. */
  readonly running: ReadonlySet<string>;
  /** Resolves when a stop is over. */
  readonly over: Promise<StopReport>;
}

export type LifecycleState =
  | { readonly name: 'running'; readonly failed: boolean }
  | { readonly name: 'stopping'; readonly failed: boolean };

/**
 * The stop of one process: running → stopping, never back.
 *
 * A stop goes: `stopEvent` aborts; `readiness` steps flip the board; the drain delay passes while requests are still
 * served; loops are told to end; then intake, work, audit, streams, producers, clients, pools; then telemetry; then
 * `onStopped`; the health port last. A step that fails or overruns is named in the log and the others still run. A step
 * that would leave no time to those behind it is cut off; the stop is forced then, and says so by its exit code. When
 * `stopTimeoutMs` has passed the stop is over, whatever is still running.
 */
export function createLifecycle(): DrivenLifecycle {
  const steps: StopStep[] = [];
  const stopEvent = new AbortController();
  const loopsEnd = new AbortController();
  let options: LifecycleOptions = { drainDelayMs: 0, stopTimeoutMs: 20_000, log: bootLog() };
  let state: LifecycleState = { name: 'running', failed: false };
  const running = new Set<string>();
  const over = Promise.withResolvers<StopReport>();

  function fail(event: string, error: unknown): void {
    options.log.critical(event, { error });
    state = { ...state, failed: true };
  }

  function background(name: string, loop: (signal: AbortSignal) => Promise<void>): void {
    if (stopEvent.signal.aborted) return;
    const ended = (async () => loop(loopsEnd.signal))().then(
      () => {
        if (loopsEnd.signal.aborted) return;
        fail('service.loop_ended', fault('INTERNAL_ERROR', `${name} ended by itself`));
        void stop(`${name} ended`);
      },
      (error: unknown) => {
        // A loop that answers its abort by throwing has ended as it was told to.
        if (loopsEnd.signal.aborted && isAbort(error, loopsEnd.signal)) return;
        fail('service.loop_failed', error);
        void stop(`${name} failed`);
      },
    );
    steps.push({
      name: `loop ${name}`,
      phase: 'work',
      timeoutMs: Number.POSITIVE_INFINITY,
      run: () => ended,
    });
  }

  function stop(reason: string): Promise<void> {
    if (state.name === 'running') {
      // The state changes before any step runs: a step that calls stop() joins instead of starting a second one.
      state = { name: 'stopping', failed: state.failed };
      over.resolve(runStop(reason));
    }
    return over.promise.then(() => undefined);
  }

  async function runStop(reason: string): Promise<StopReport> {
    const startedAt = performance.now();
    const { log, stopTimeoutMs, drainDelayMs } = options;
    const reports: StepReport[] = [];
    log.info('service.stopping', { reason, drainDelayMs, stopTimeoutMs });

    const sequence = {
      deadlineAt: startedAt + stopTimeoutMs,
      totalMs: stopTimeoutMs,
      takeSteps(phase: StopPhase): StopStep[] {
        const due = stopPhases.indexOf(phase);
        const taken = steps.filter((step) => stopPhases.indexOf(step.phase) <= due);
        for (const step of taken) {
          steps.splice(steps.indexOf(step), 1);
          running.add(step.name);
        }
        return taken;
      },
      phasesAfter: (phase: StopPhase) =>
        new Set(
          steps.map((step) => stopPhases.indexOf(step.phase)).filter((at) => at > stopPhases.indexOf(phase)),
        ).size,
      onStep(report: StepReport): void {
        running.delete(report.name);
        reports.push(report);
        const { name, phase, outcome, durationMs, error } = report;
        const fields = { step: name, phase, outcome, durationMs };
        if (outcome === 'done') log.info('shutdown.step', fields);
        else log.error('shutdown.step', { ...fields, error });
        void hook(log, 'on_step', () => options.onStep?.(report));
      },
    };
    const named = (...outcomes: StepReport['outcome'][]) =>
      reports.filter((each) => outcomes.includes(each.outcome)).map((each) => each.name);
    const report = (isOver: boolean): StopReport => ({
      reason,
      outcome: isOver && named('forced').length === 0 ? 'drained' : 'forced',
      durationMs: Math.round(performance.now() - startedAt),
      steps: [...reports],
      overran: [...named('overran', 'forced'), ...(isOver ? [] : running)],
      failed: named('failed'),
    });

    const drain = async (): Promise<StopReport> => {
      await runPhase('readiness', sequence);
      running.add(drainDelay);
      await pause(Math.min(drainDelayMs, stopTimeoutMs));
      running.delete(drainDelay);
      loopsEnd.abort(fault('DRAINING', reason));
      for (const phase of stopPhases.slice(1, stopPhases.indexOf('telemetry')))
        await runPhase(phase, sequence);
      return report(true);
    };
    const all = async (): Promise<StopReport> => {
      // Listeners of stopEvent run inside abort(); none of them may keep the stop from going on.
      stopEvent.abort(fault('DRAINING', reason));
      let drained: Promise<StopReport> | undefined;
      const drainOnce = () => {
        drained ??= drain();
        return drained;
      };
      await hook(log, 'around_stop', () => options.aroundStop?.(drainOnce));
      await drainOnce();
      await runPhase('telemetry', sequence);
      running.add('on_stopped');
      await hook(log, 'on_stopped', () => options.onStopped?.(report(true)));
      running.delete('on_stopped');
      await runPhase('health-port', sequence);
      return report(true);
    };
    const result = await withinTotal(all(), stopTimeoutMs, () => report(false));
    const summary = {
      reason,
      outcome: result.outcome,
      durationMs: result.durationMs,
      overran: result.overran,
      failed: result.failed,
    };
    if (result.outcome === 'drained' && result.overran.length === 0) log.info('service.stopped', summary);
    else log.error('service.stopped', summary);
    return result;
  }

  return {
    stopEvent: stopEvent.signal,
    onStop: (step) => void steps.push(step),
    configure: (next) => {
      options = next;
    },
    background,
    stop,
    fail,
    get state() {
      return state;
    },
    get log() {
      return options.log;
    },
    running,
    over: over.promise,
  };
}

/** The stop or its bound, whichever is first. */
async function withinTotal(
  all: Promise<StopReport>,
  totalMs: number,
  forced: () => StopReport,
): Promise<StopReport> {
  let timer: NodeJS.Timeout | undefined;
  const bound = new Promise<StopReport>((resolve) => {
    timer = setTimeout(() => resolve(forced()), totalMs);
  });
  try {
    return await Promise.race([all, bound]);
  } finally {
    clearTimeout(timer);
  }
}

/** Calls what main hung in; one that throws is logged and must not keep the rest of the stop from running. */
async function hook(log: LifecycleLog, name: string, call: () => unknown): Promise<void> {
  try {
    await call();
  } catch (error) {
    log.error('shutdown.hook_failed', { hook: name, error });
  }
}

function isAbort(error: unknown, signal: AbortSignal): boolean {
  return error === signal.reason || (error instanceof Error && error.name === 'AbortError');
}

/** What a stop names when it is forced while it waits for load balancers. */
const drainDelay = 'drain delay';

/** Exit codes of every service; 64, 70 and 75 are those of sysexits.h. */
export const exitCodes = { drained: 0, configInvalid: 64, internal: 70, forced: 75 } as const;

/** A Ctrl-C reaches a process twice when a package manager passes on what the terminal already sent. */
const echoMs = 300;

/**
 * Runs a service's main and, when the stop is over, ends the process: 0 drained, 64 bad configuration, 70 an internal
 * error, 75 forced. The only reader of signals and the only caller of process.exit. SIGTERM and SIGINT start the stop, a
 * second one forces the exit at once. An unhandled rejection or exception is logged, and the process drains and
 * exits 70: after it nobody knows what state the process is in, but the requests under way deserve their end.
 */
export async function runMain(main: (lifecycle: Lifecycle) => Promise<void>): Promise<void> {
  const lifecycle = createLifecycle();
  // A process with nothing but an awaited promise would end with code 13 before its stop has run.
  const keepAlive = setInterval(() => undefined, 2 ** 30);
  let firstSignalAt: number | undefined;

  function onSignal(signal: NodeJS.Signals): void {
    const now = performance.now();
    if (firstSignalAt === undefined) {
      firstSignalAt = now;
      void lifecycle.stop(signal);
      return;
    }
    if (process.stdin.isTTY && now - firstSignalAt < echoMs) return;
    lifecycle.log.critical('service.forced', {
      reason: `${signal} while stopping`,
      overran: [...lifecycle.running],
    });
    process.exit(exitCodes.forced);
  }
  // Not SIGHUP: a handler would undo the nohup that somebody started this with.
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, onSignal);

  // A reader of ours that went away (EPIPE) is an error event of the stream; uncaught, telling of it would raise the next.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);

  function onFatal(event: string, error: unknown): void {
    lifecycle.fail(event, error);
    void lifecycle.stop(event);
  }
  process.on('uncaughtException', (error) => onFatal('process.uncaught_exception', error));
  process.on('unhandledRejection', (error) => onFatal('process.unhandled_rejection', error));

  let invalid = false;
  function onMainFailed(error: unknown): void {
    if (isFault(error, 'CONFIG_INVALID')) {
      invalid = true;
      lifecycle.log.critical('config.invalid', { error });
      writeLine(2, error.message);
      for (const { path, message } of error.errors ?? []) writeLine(2, `  ${path}: ${message}`);
      void lifecycle.stop('bad configuration');
    } else if (lifecycle.state.name === 'running') onFatal('service.start_failed', error);
    // A stop that came while main was starting has cut it short: its failure is no news.
    else lifecycle.log.error('service.start_aborted', { error });
  }
  // Not awaited: a main that still waits for something must not keep the stop from ending the process.
  (async () => main(lifecycle))().catch(onMainFailed);
  const report = await lifecycle.over;
  clearInterval(keepAlive);
  if (report.outcome === 'forced') process.exit(exitCodes.forced);
  if (invalid) process.exit(exitCodes.configInvalid);
  process.exit(lifecycle.state.failed ? exitCodes.internal : exitCodes.drained);
}
