import { fault } from '@signalbox/faults/fault';

/** The order of a stop. Phases run one after the other, the steps of one phase together. */
export const stopPhases = [
  'readiness',
  'intake',
  'work',
  'audit',
  'streams',
  'producers',
  'clients',
  'pools',
  'telemetry',
  'health-port',
] as const;

export type StopPhase = (typeof stopPhases)[number];

export interface StopStep {
  readonly name: string;
  readonly phase: StopPhase;
  /** Bound of this step; 5 000 ms where none is given. What is left of the whole stop bounds it further. */
  readonly timeoutMs?: number;
  /** Ends what it is named after. `signal` aborts when the step's bound passes: from then on nobody waits for it. */
  run(signal: AbortSignal): Promise<void> | void;
}

/** `overran`: it passed its own bound. `forced`: it was cut off because the whole stop had no more time. */
export type StepOutcome = 'done' | 'failed' | 'overran' | 'forced';

export interface StepReport {
  readonly name: string;
  readonly phase: StopPhase;
  readonly outcome: StepOutcome;
  readonly durationMs: number;
  readonly error?: unknown;
}

export const defaultStepTimeoutMs = 5_000;

/** What every phase that still has steps keeps for itself, so that one that hangs cannot starve those behind it. */
const phaseReserveMs = 500;

export interface SequenceOptions {
  /** Steps not run yet, taken out of the list by this call: those of `phase`, and late ones of phases gone by. */
  takeSteps(phase: StopPhase): StopStep[];
  /** How many phases after this one have steps. */
  phasesAfter(phase: StopPhase): number;
  /** When the whole stop must be over, in the time of `performance.now()`. */
  readonly deadlineAt: number;
  readonly totalMs: number;
  onStep(report: StepReport): void;
}

/** Runs one phase: its steps together, each within its bound. Never throws. */
export async function runPhase(phase: StopPhase, options: SequenceOptions): Promise<void> {
  const reserveMs = Math.min(phaseReserveMs, options.totalMs / 20) * options.phasesAfter(phase);
  const steps = options.takeSteps(phase);
  await Promise.all(
    steps.map(async (step) => {
      const leftMs = Math.max(0, options.deadlineAt - performance.now() - reserveMs);
      options.onStep(await runStep(step, leftMs));
    }),
  );
}

/** `leftMs`: what the whole stop has left for it. */
async function runStep(step: StopStep, leftMs: number): Promise<StepReport> {
  const startedAt = performance.now();
  const ownMs = step.timeoutMs ?? defaultStepTimeoutMs;
  const boundMs = Math.min(ownMs, leftMs);
  const controller = new AbortController();
  const report = (outcome: StepOutcome, error?: unknown): StepReport => ({
    name: step.name,
    phase: step.phase,
    outcome,
    durationMs: Math.round(performance.now() - startedAt),
    ...(error === undefined ? {} : { error }),
  });
  let timer: NodeJS.Timeout | undefined;
  const overrun = new Promise<StepReport>((resolve) => {
    timer = setTimeout(() => {
      const passed = fault('TIMEOUT', `stop step ${step.name} did not end within ${Math.round(boundMs)} ms`);
      resolve(report(ownMs <= leftMs ? 'overran' : 'forced', passed));
      controller.abort(passed);
    }, boundMs);
  });
  // The call itself stands inside the promise, so that a step that throws synchronously fails like any other.
  const ended = (async () => step.run(controller.signal))().then(
    () => report('done'),
    (error: unknown) => report('failed', error ?? fault('INTERNAL_ERROR', `stop step ${step.name} failed`)),
  );
  try {
    return await Promise.race([ended, overrun]);
  } finally {
    clearTimeout(timer);
  }
}
