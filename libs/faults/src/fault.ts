import { catalog, type FaultCode } from './catalog.ts';

/** One place where input breaks its rules: a JSON pointer (or a header or setting name), and what is wrong there. */
export interface FieldError {
  readonly path: string;
  readonly message: string;
}

export interface FaultOptions {
  readonly cause?: unknown;
  readonly errors?: readonly FieldError[];
  /** When the caller may try again; becomes Retry-After. */
  readonly retryAfterMs?: number;
  /** For logs only: never sent to a caller. */
  readonly details?: Readonly<Record<string, unknown>>;
}

/**
 * An error with a code of the catalog. Its message may be shown to a caller; its cause and details are for logs.
 * Made with `fault(…)`; anything else thrown becomes one through `asFault`.
 */
export class Fault extends Error {
  override readonly name = 'Fault';
  readonly code: FaultCode;
  readonly status: number;
  readonly retryable: boolean;
  readonly errors: readonly FieldError[] | undefined;
  readonly retryAfterMs: number | undefined;
  readonly details: Readonly<Record<string, unknown>> | undefined;

  constructor(code: FaultCode, message: string, options: FaultOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    const { status, retryable } = catalog[code];
    this.code = code;
    this.status = status;
    this.retryable = retryable;
    this.errors = options.errors;
    this.retryAfterMs = options.retryAfterMs;
    this.details = options.details;
  }
}

/** Makes a fault; `throw fault('NOT_FOUND', 'no such session')`. */
export function fault(code: FaultCode, message: string, options?: FaultOptions): Fault {
  return new Fault(code, message, options);
}

/** Whether `error` is a fault, and of this code where one is given. */
export function isFault(error: unknown, code?: FaultCode): error is Fault {
  return error instanceof Fault && (code === undefined || error.code === code);
}

/**
 * Total: every thrown value becomes a fault. A fault stays itself; an abort is ABORTED, a timeout signal's reason
 * TIMEOUT; everything else is INTERNAL_ERROR with the value as cause. Drivers' errors are classified by their own
 * libraries before they get here: an unknown error must never look retryable.
 */
export function asFault(thrown: unknown): Fault {
  if (thrown instanceof Fault) return thrown;
  if (thrown instanceof Error) {
    if (thrown.name === 'AbortError') return fault('ABORTED', 'the work was aborted', { cause: thrown });
    if (thrown.name === 'TimeoutError') return fault('TIMEOUT', 'the time limit passed', { cause: thrown });
  }
  return fault('INTERNAL_ERROR', 'an internal error occurred', { cause: thrown });
}
