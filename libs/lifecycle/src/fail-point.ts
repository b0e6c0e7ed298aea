import { constants } from 'node:os';
import { fault } from '@signalbox/faults/fault';
import { bootLog } from './boot-log.ts';

/** Each instant at which a death is told apart from one a moment earlier or later, and what lies on its two sides. */
export const failPoints = {
  'accept.committed': 'a message is stored, its 202 not yet sent',
  'outbox.committed': 'the business transaction is committed, its rows not yet queued for the broker',
  'outbox.published': 'the broker has acknowledged a row, the row not yet deleted',
  'relay.sent': 'the broker has acknowledged rows of the relay, the rows not yet deleted',
  'intake.committed': "a batch's effects are committed, its offsets not yet",
  'turn.step_done': 'the model has answered, the outcome of the step not yet stored',
  'turn.deltas_acknowledged': 'the last delta of an answer is in the log, the final not yet in the outbox',
  'call.done': 'a tool has run, its outcome not yet stored',
  'task.step_done': 'a step of a handler has run, its outcome not yet stored',
  'webhook.answered': 'a callback URL has taken a webhook, its end not yet stored',
  'push.done': 'the memory backend has taken a memory, which is not stored yet',
  'export.page_written': 'rows of an export are in its unfinished file, others are not',
  'export.published': 'the file of an export has its name, its job has not ended',
  'stream.stored': 'events are in Postgres, not yet appended in Redis',
  'stream.appended': 'events are appended in Redis, their offset not yet resolved',
} as const;

export type FailPointName = keyof typeof failPoints;

export interface FailPointOrder {
  readonly name: FailPointName;
  /** The pass that ends the process, from 1 on. */
  readonly pass: number;
  readonly signal: 'SIGKILL' | 'SIGSTOP';
}

let armed: { readonly order: FailPointOrder; passed: number } | undefined;

/**
 * An instant at which a test lets this process die or stand still; it does nothing unless it was armed. Nothing behind
 * it runs: the signal is the process's own and is there when the system call returns.
 */
export function failPoint(name: FailPointName): void {
  if (armed !== undefined) pass(armed, name);
}

/**
 * Arms the fail point that `FAIL_POINT` names, `outbox.committed:3:SIGSTOP`: at the third pass the process is stopped.
 * Without a number at the first, without a signal by SIGKILL. An undefined text arms nothing.
 * @throws CONFIG_INVALID when the text names no fail point.
 */
export function armFailPoint(text: string | undefined): void {
  armed = text === undefined ? undefined : { order: readOrder(text), passed: 0 };
}

/** Reads `name[:pass][:signal]`. */
export function readOrder(text: string): FailPointOrder {
  const [, name = '', pass = '1', signal = 'SIGKILL'] =
    /^([a-z_.]+)(?::([1-9]\d{0,8}))?(?::(SIGKILL|SIGSTOP))?$/.exec(text) ?? [];
  if (!isFailPoint(name) || (signal !== 'SIGKILL' && signal !== 'SIGSTOP')) {
    throw fault('CONFIG_INVALID', 'FAIL_POINT names no fail point', {
      errors: [
        {
          path: 'FAIL_POINT',
          message: `must be <name>[:<pass>][:SIGKILL|SIGSTOP] with a name of ${Object.keys(failPoints).join(', ')}`,
        },
      ],
    });
  }
  return { name, pass: Number(pass), signal };
}

function isFailPoint(name: string): name is FailPointName {
  return Object.hasOwn(failPoints, name);
}

/** How long a stop may take to arrive, should the kernel choose another thread to take it first. */
const arrivalMs = 50;

function pass(at: { readonly order: FailPointOrder; passed: number }, name: FailPointName): void {
  const { order } = at;
  if (name !== order.name) return;
  at.passed += 1;
  if (at.passed !== order.pass) return;
  const log = bootLog();
  log.critical('fail_point.reached', { failPoint: name, pass: order.pass, signal: order.signal });
  process.kill(process.pid, constants.signals[order.signal]);
  // A killed process does not get here; one that is continued goes on behind the wait.
  block(order.signal === 'SIGKILL' ? Number.POSITIVE_INFINITY : arrivalMs);
}

/** Holds the thread, so that no timer, promise or callback of this process runs meanwhile. */
function block(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
