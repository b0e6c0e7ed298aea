import { createRequire } from 'node:module';
import { fault } from '@signalbox/faults/fault';
import { describe, expect, it } from 'vitest';
import { judgeSend, refusalReason } from './send-errors.ts';

const require = createRequire(import.meta.url);
const errors: Record<string, new (...args: unknown[]) => Error> = require('kafkajs/src/errors');
const {
  createErrorFromCode,
}: { createErrorFromCode(code: number): Error } = require('kafkajs/src/protocol/error');

function made(name: string, ...args: unknown[]): Error {
  const Type = errors[name];
  if (Type === undefined) throw new Error(`kafkajs has no ${name}`);
  return new Type(...args);
}

const refused = [10, 17, 18, 32, 43, 44, 76, 87];

describe('judgeSend', () => {
  it('refuses for what is wrong with a record, bare and wrapped as kafkajs wraps it; every other code is tried again', () => {
    for (let code = -1; code <= 120; code += 1) {
      if (code === 0) continue;
      const bare = createErrorFromCode(code);
      const wrapped = made('KafkaJSNonRetriableError', bare, { cause: bare });
      const exhausted = made('KafkaJSNumberOfRetriesExceeded', bare, { retryCount: 0, retryTime: 1 });
      const verdict = refused.includes(code) ? 'refused' : 'retry';
      expect([code, judgeSend(bare), judgeSend(wrapped), judgeSend(exhausted)]).toEqual([
        code,
        verdict,
        verdict,
        verdict,
      ]);
    }
  });

  it('tries again after everything that says nothing about the record', () => {
    for (const error of [
      made('KafkaJSConnectionError', 'refused', { broker: 'b', code: 'ECONNREFUSED' }),
      made('KafkaJSConnectionClosedError', 'closed', { host: 'h', port: 1 }),
      made('KafkaJSRequestTimeoutError', 'late', {}),
      made('KafkaJSMetadataNotLoaded', 'none'),
      made('KafkaJSBrokerNotFound', 'none'),
      made('KafkaJSServerDoesNotSupportApiKey', 'no', {}),
      made('KafkaJSInvariantViolation', 'defect'),
      new Error('anything'),
      'text',
      undefined,
      null,
      { code: 'ECONNRESET' },
      new TypeError('x is not a function'),
      Object.assign(new RangeError('out of range'), { code: 'ERR_OUT_OF_RANGE' }),
      made('KafkaJSNonRetriableError', new TypeError('x'), { cause: new TypeError('x') }),
    ]) {
      expect(judgeSend(error)).toBe('retry');
    }
  });

  it('refuses what cannot even be encoded', () => {
    expect(judgeSend(fault('RECORD_REFUSED', 'its value is neither bytes nor null'))).toBe('refused');
    expect(
      judgeSend(made('KafkaJSNonRetriableError', 'Invalid message without value for topic "t": {}')),
    ).toBe('refused');
  });

  it('ends with a cause that points back at itself, and says why a record was refused', () => {
    const loop = new Error('a');
    loop.cause = loop;
    expect(judgeSend(loop)).toBe('retry');
    expect(refusalReason(createErrorFromCode(10))).toContain('MESSAGE_TOO_LARGE');
    expect(refusalReason(new TypeError('x'))).toBe('x');
  });
});
