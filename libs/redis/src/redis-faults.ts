import { type Fault, fault, isFault } from '@signalbox/faults/fault';
import { ReplyError } from 'ioredis';

/** Replies with which a reachable server says that it cannot serve now: starting, failing over, out of memory, busy. */
const awayReplies = [
  'LOADING',
  'MASTERDOWN',
  'READONLY',
  'CLUSTERDOWN',
  'TRYAGAIN',
  'BUSY',
  'OOM',
  'MISCONF',
  'NOREPLICAS',
];

/**
 * Whether Redis is away, as opposed to refusing what it was asked. Total and pure:
 * - a reply of the server is a refusal of the command (wrong type, script error), unless its first word says that the
 *   server cannot serve at the moment;
 * - anything else that ioredis rejects with is the connection: closed, never opened, no answer in time.
 */
export function isRedisAway(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (error instanceof ReplyError) {
    const firstWord = error.message.split(' ', 1)[0] ?? '';
    return awayReplies.includes(firstWord);
  }
  return true;
}

/** REDIS_UNAVAILABLE for a server that is away, INTERNAL_ERROR for a refused command; the original is the cause. */
export function asRedisFault(error: unknown): Fault {
  if (isFault(error)) return error;
  return isRedisAway(error)
    ? fault('REDIS_UNAVAILABLE', 'Redis cannot be reached', { cause: error, retryAfterMs: 1000 })
    : fault('INTERNAL_ERROR', 'Redis refused a command', { cause: error });
}
