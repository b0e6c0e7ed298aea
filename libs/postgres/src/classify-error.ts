import { type Fault, fault, isFault } from '@signalbox/faults/fault';

/**
 * What an error of the driver means for the caller.
 * - `unavailable`: the server cannot be reached, refuses, is too busy or went away. Try again later.
 * - `conflict`: this transaction lost against another (serialization failure, deadlock, lock timeout). Try again.
 * - `schema`: a table, column or function is not there: the service is older or newer than the migrations. Waits
 *   for the migration like for a server, because a message must not be given up over a roll-out.
 * - `lease-lost`: our own SB001, another owner holds the lane.
 * - `ours`: everything else, so a mistake in a statement or its data. Trying again cannot help.
 */
export type ErrorClass = 'unavailable' | 'conflict' | 'schema' | 'lease-lost' | 'ours';

/** SQLSTATE of this project: a write by somebody whose lease was taken over. */
export const leaseLostState = 'SB001';

const schemaStates = new Set(['42P01', '42703', '42883', '3F000']);
const conflictStates = new Set(['40001', '40P01', '55P03']);
const unavailableStates = new Set([
  '57014', // statement_timeout or a cancel: the server did not get it done in its time
  '25006', // read only: this is a standby, a failover is under way
  '25P03', // idle in transaction for too long: the server closed the connection
  '25P04', // transaction_timeout
  '28000', // role or database not made yet: migrate has not run
  '28P01',
  '3D000',
]);
const socketCodes = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EHOSTDOWN',
  'ENOTFOUND',
  'EAI_AGAIN',
  'ENOENT', // the socket file of a local server that is not up
]);

/** The driver says these in words only; each is a connection that is gone or never came. */
const connectionWords =
  /^(Connection terminated|timeout expired|Query read timeout|timeout exceeded when trying to connect|Client has encountered a connection error|Client was closed|Cannot use a pool after calling end|The server does not support SSL|Client has already been connected)/;

function textField(error: object, name: 'code' | 'severity'): string | undefined {
  const value: unknown = Reflect.get(error, name);
  return typeof value === 'string' ? value : undefined;
}

/** SQLSTATE of the error or of one of its causes; undefined when Postgres did not answer with one. */
export function sqlState(error: unknown): string | undefined {
  let current = error;
  for (let depth = 0; depth < 5 && current instanceof Error; depth += 1) {
    const code = textField(current, 'code');
    if (code !== undefined && /^[0-9A-Z]{5}$/.test(code) && textField(current, 'severity') !== undefined) {
      return code;
    }
    current = current.cause;
  }
  return undefined;
}

/** Pure and total: every thrown value has exactly one class. */
export function classifyError(error: unknown): ErrorClass {
  if (isFault(error)) return classOfFault(error);
  if (!(error instanceof Error)) return 'ours';
  const state = sqlState(error);
  if (state !== undefined) {
    if (state === leaseLostState) return 'lease-lost';
    if (conflictStates.has(state)) return 'conflict';
    if (schemaStates.has(state)) return 'schema';
    // 08 connection, 53 out of resources (connections, disk, memory), 57P shutting down or starting up, 58 I/O.
    if (/^(08|53|57P|58)/.test(state) || unavailableStates.has(state)) return 'unavailable';
    return 'ours';
  }
  const code = textField(error, 'code');
  if (code !== undefined && socketCodes.has(code)) return 'unavailable';
  if (connectionWords.test(error.message)) return 'unavailable';
  if (error instanceof AggregateError) {
    return error.errors.some((each: unknown) => classifyError(each) === 'unavailable')
      ? 'unavailable'
      : 'ours';
  }
  return 'ours';
}

function classOfFault(known: Fault): ErrorClass {
  if (known.code === 'LEASE_LOST') return 'lease-lost';
  if (known.code === 'SCHEMA_OUTDATED') return 'schema';
  return known.code === 'DATABASE_UNAVAILABLE' ? 'unavailable' : 'ours';
}

/** Whether the database is away (or this transaction only lost a race), so that the same call may succeed later. */
export function isUnavailable(error: unknown): boolean {
  const kind = classifyError(error);
  return kind === 'unavailable' || kind === 'conflict' || kind === 'schema';
}

/** Whether the connection that raised this must not be used again. */
export function breaksConnection(error: unknown): boolean {
  if (!(error instanceof Error) || isFault(error)) return false;
  const state = sqlState(error);
  // A cancel by statement_timeout leaves the connection whole; every answer the server gave does, but its last words.
  if (state !== undefined) return textField(error, 'severity') === 'FATAL' || /^(08|57P|25P0)/.test(state);
  return classifyError(error) === 'unavailable';
}

/**
 * The fault a caller sees. `outcome` is 'unknown' when the statement or the commit may have taken effect although no
 * answer came: then it may only be repeated with the same ids. 'none' is certain: nothing was written.
 */
export function databaseFault(error: unknown, outcome: 'none' | 'unknown'): Fault {
  if (isFault(error)) return error;
  const kind = classifyError(error);
  const state = sqlState(error);
  const lastsNothing = state !== undefined && !/^(08|57P)/.test(state);
  const details = {
    kind,
    outcome: lastsNothing ? 'none' : outcome,
    ...(state === undefined ? {} : { sqlState: state }),
  };
  if (kind === 'lease-lost')
    return fault('LEASE_LOST', 'another owner holds the lane', { cause: error, details });
  if (kind === 'ours') return fault('INTERNAL_ERROR', 'a statement failed', { cause: error, details });
  return fault('DATABASE_UNAVAILABLE', 'the database cannot answer now', {
    cause: error,
    details,
    retryAfterMs: 1000,
  });
}
