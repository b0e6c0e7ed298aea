import { fault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import { whyNotKeepable } from '@signalbox/messaging/keepable-value';
import { withSpan } from '@signalbox/telemetry/trace';
import type { Steps, Values } from './handlers/handler.ts';
import { childId, childMessage } from './task-messages.ts';
import type { TaskRun } from './task-run.ts';
import type { EndedState } from './task-state.ts';

/** How a run ends besides by its handler's answer. */
export interface StepsEnd {
  /** The handler waits for a result. */
  parked(): void;
  /** A step could not be stored: LEASE_LOST, or the database's fault. */
  failed(error: unknown): void;
}

/**
 * The steps of one run of a handler. When the run is over, because it waits or cannot store, the promise of the step
 * never settles: so nothing of the handler runs on, whatever it catches, and the whole of it is forgotten with the run.
 */
export function stepsOf(run: TaskRun, end: StepsEnd): Steps {
  const { item, payload, lease } = run;
  const used = new Set<string>();
  let waits = 0;
  /** Outcomes of earlier runs that this one has come past. */
  let replayed = 0;

  function use(name: string): void {
    if (used.has(name)) throw fault('INTERNAL_ERROR', `two steps of a handler have the name ${name}`);
    used.add(name);
  }

  function outcomeOf(name: string): Values | undefined {
    const known = run.step(name)?.outcome;
    if (known !== undefined) replayed += 1;
    return known;
  }

  async function park(write: () => Promise<void>): Promise<never> {
    await stored(write);
    end.parked();
    return never();
  }

  async function stored(write: () => Promise<void>): Promise<void> {
    try {
      await write();
    } catch (error) {
      end.failed(error);
      return never();
    }
  }

  return {
    signal: lease.signal,

    async run(name, work) {
      use(name);
      if (run.over) return never();
      const known = outcomeOf(name);
      if (known !== undefined) return known;
      lease.signal.throwIfAborted();
      const outcome = await withSpan(`step ${name}`, {}, () =>
        work({
          idempotencyKey: `${payload.task.task_id}:${name}`,
          signal: lease.signal,
          attempt: item.attempt,
        }),
      );
      if (run.over) return never();
      // What the handler sees now is what it will see when it is answered from the store.
      const kept = storable(outcome);
      failPoint('task.step_done');
      await stored(() => run.finishStep({ name, kind: 'run', outcome: kept }));
      return kept;
    },

    async input(prompt) {
      const name = `input ${++waits}`;
      use(name);
      if (run.over) return never();
      const known = outcomeOf(name);
      if (known !== undefined) return known;
      return park(() => run.park({ name, kind: 'input' }, [], { status: 'input_required', prompt }));
    },

    async delegate(target, input) {
      const name = `task ${++waits}`;
      use(name);
      if (run.over) return never();
      const known = outcomeOf(name);
      if (known !== undefined) return endedState(known);
      const id = childId(payload.task.task_id, name);
      const message = childMessage(item.tenant, payload, id, target, storable(input));
      return park(() => run.park({ name, kind: 'task', ref: id }, [message]));
    },

    async progress(text) {
      if (run.over) return never();
      // It was told when the handler came here first.
      if (replayed < run.knownOutcomes) return;
      await stored(() => run.tell({ status: 'running', progress: text }));
    },
  };
}

/** Bytes of a step's outcome and of a task's result: they go into rows, records and webhooks. */
export const maxOutcomeBytes = 262_144;

/** As JSON makes of it. @throws RECORD_TOO_LARGE, VALIDATION_ERROR */
export function storable(outcome: Values): Values {
  const text = JSON.stringify(outcome);
  if (Buffer.byteLength(text) > maxOutcomeBytes) {
    throw fault('RECORD_TOO_LARGE', `an outcome is longer than ${maxOutcomeBytes} bytes`);
  }
  const read: unknown = JSON.parse(text);
  // It is one level down in an update, and one more where it becomes part of an input.
  const mistake = whyNotKeepable({ data: { read } }, Buffer.from(text));
  if (mistake !== undefined) throw fault('VALIDATION_ERROR', `an outcome cannot be kept: ${mistake}`);
  if (typeof read !== 'object' || read === null || Array.isArray(read)) {
    throw fault('VALIDATION_ERROR', 'an outcome must be an object');
  }
  return Object.fromEntries(Object.entries(read));
}

/** How a child ended, as its parent's step holds it. */
export function endedState(outcome: Values): EndedState {
  const { status, result, error } = outcome;
  if (status === 'completed') return { status, result: isValues(result) ? result : {} };
  const { error_code: code, message } = isValues(error) ? error : {};
  return {
    status: status === 'cancelled' || status === 'expired' ? status : 'failed',
    error: {
      error_code: typeof code === 'string' ? code : 'INTERNAL_ERROR',
      message: typeof message === 'string' ? message : 'the task failed',
    },
  };
}

function isValues(given: unknown): given is Values {
  return typeof given === 'object' && given !== null && !Array.isArray(given);
}

function never(): Promise<never> {
  return new Promise(() => undefined);
}
