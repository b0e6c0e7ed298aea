import { isFault } from '@signalbox/faults/fault';
import { ReplyError } from 'ioredis';
import { describe, expect, it } from 'vitest';
import { reconnectDelayMs } from './redis.ts';
import { asRedisFault, isRedisAway } from './redis-faults.ts';

describe('isRedisAway', () => {
  it.each([
    ['connection refused', Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' }), true],
    ['a command that timed out', new Error('Command timed out'), true],
    ['a closed connection', new Error('Connection is closed.'), true],
    ['a server that loads its data', new ReplyError('LOADING Redis is loading the dataset in memory'), true],
    ['a replica', new ReplyError("READONLY You can't write against a read only replica."), true],
    ['a full server', new ReplyError("OOM command not allowed when used memory > 'maxmemory'."), true],
    ['a wrong type', new ReplyError('WRONGTYPE Operation against a key'), false],
    ['a script error', new ReplyError('ERR Error running script'), false],
    ['no error at all', 'text', false],
  ])('%s', (_name, error, away) => {
    expect(isRedisAway(error)).toBe(away);
    expect(asRedisFault(error).code).toBe(away ? 'REDIS_UNAVAILABLE' : 'INTERNAL_ERROR');
  });

  it('keeps a fault and the cause of what becomes one', () => {
    const cause = new Error('Connection is closed.');
    const made = asRedisFault(cause);
    expect(made.cause).toBe(cause);
    expect(asRedisFault(made)).toBe(made);
    expect(isFault(made, 'REDIS_UNAVAILABLE')).toBe(true);
  });
});

describe('reconnectDelayMs', () => {
  it('doubles its bound up to the cap and takes a random part of it', () => {
    const bounds = [1, 2, 3, 4, 5, 6, 7, 50].map((times) => reconnectDelayMs(times, 1000, () => 1));
    expect(bounds).toEqual([50, 100, 200, 400, 800, 1000, 1000, 1000]);
    expect(reconnectDelayMs(5, 1000, () => 0.25)).toBe(200);
    expect(reconnectDelayMs(5, 1000, () => 0)).toBe(1);
  });
});
