import { fault } from '@signalbox/faults/fault';
import { describe, expect, test } from 'vitest';
import { runWithContext } from './context.ts';
import { createLogger, type LoggerOptions } from './logger.ts';
import { startTelemetry } from './telemetry.ts';
import { withSpan } from './trace.ts';

function logger(options: Partial<LoggerOptions> = {}) {
  const written: string[] = [];
  const log = createLogger({
    service: 'gateway',
    version: '1.0.0',
    environment: 'dev',
    level: 'DEBUG',
    format: 'json',
    destination: { write: (line) => void written.push(line) },
    ...options,
  });
  return { log, written, last: (): Record<string, unknown> => JSON.parse(written.at(-1) ?? '{}') };
}

describe('a log record', () => {
  test('is one JSON line with the fields of the contract', () => {
    const { log, written, last } = logger();
    log.info(
      'turn.finished',
      { turnId: 't1', durationMs: 12, usage: { inputTokens: 3 } },
      'a turn has finished',
    );
    expect(written).toHaveLength(1);
    expect(written[0]?.endsWith('}\n')).toBe(true);
    expect(last()).toEqual({
      timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      level: 'INFO',
      message: 'a turn has finished',
      event: 'turn.finished',
      service: 'gateway',
      version: '1.0.0',
      environment: 'dev',
      turn_id: 't1',
      duration_ms: 12,
      usage: { input_tokens: 3 },
    });
  });

  test('has the levels of the contract, and writes those at least as high', () => {
    const { log, written } = logger({ level: 'WARNING' });
    for (const level of ['debug', 'info', 'warning', 'error', 'critical'] as const) log[level]('x');
    expect(written.map((line) => JSON.parse(line).level)).toEqual(['WARNING', 'ERROR', 'CRITICAL']);
    expect([log.enabled('INFO'), log.enabled('WARNING')]).toEqual([false, true]);
  });

  test('carries whose work is being done, and the active span', async () => {
    const { log, last } = logger();
    const telemetry = startTelemetry({
      service: 'x',
      version: '1',
      environment: 'dev',
      instanceId: 'i',
      tracing: true,
      metrics: false,
      logLevel: 'INFO',
      logFormat: 'json',
    });
    await runWithContext({ requestId: 'r1', tenantId: 'acme' }, () =>
      runWithContext({ sessionId: 's1' }, () =>
        withSpan('turn', {}, async (span) => {
          await Promise.resolve();
          log.info('inside');
          expect(last()).toMatchObject({
            request_id: 'r1',
            tenant_id: 'acme',
            session_id: 's1',
            trace_id: span.spanContext().traceId,
            span_id: span.spanContext().spanId,
          });
        }),
      ),
    );
    log.info('outside');
    expect(Object.keys(last())).not.toContain('trace_id');
    expect(Object.keys(last())).not.toContain('tenant_id');
    await telemetry.shutdown();
  });

  test('takes an error apart, with its causes', () => {
    const { log, last } = logger();
    const cause = new TypeError('x is undefined');
    log.error('accept.failed', {
      errorId: 'id-1',
      error: fault('DATABASE_UNAVAILABLE', 'no connection', { cause, details: { poolSize: 4 } }),
    });
    expect(last()).toMatchObject({
      level: 'ERROR',
      error_id: 'id-1',
      error_code: 'DATABASE_UNAVAILABLE',
      error_type: 'Fault',
      error_message: 'no connection',
      error_details: { pool_size: 4 },
      stack: expect.stringMatching(/^Fault: no connection[\s\S]*Caused by: TypeError: x is undefined/),
    });
    log.error('odd', { error: 'just text' });
    expect(last()).toMatchObject({ error_code: 'INTERNAL_ERROR', error_message: 'just text' });
    class DriverError extends Error {}
    log.error('driver', { error: new DriverError('gone') });
    expect(last()).toMatchObject({ error_type: 'DriverError', error_message: 'gone' });
  });

  test('tells of errors by code and type', () => {
    const told: unknown[] = [];
    const { log } = logger({ onProblem: (...problem) => void told.push(problem) });
    log.warning('w', { error: new Error('x') });
    log.error('e', { error: fault('TIMEOUT', 'late') });
    log.critical('c', { error: new RangeError('x') });
    log.error('plain');
    expect(told).toEqual([
      ['ERROR', 'TIMEOUT', 'Fault'],
      ['CRITICAL', 'INTERNAL_ERROR', 'RangeError'],
      ['ERROR', 'UNSPECIFIED', 'unspecified'],
    ]);
  });

  test('of a child carries its fields', () => {
    const { log, last } = logger();
    log.child({ turnId: 't1' }).child({ attempt: 2 }).info('x', { attempt: 3 });
    expect(last()).toMatchObject({ turn_id: 't1', attempt: 3 });
  });

  test('takes whatever it is given, and never throws', () => {
    const { log, last } = logger();
    const circle: Record<string, unknown> = { name: 'circle' };
    circle.self = circle;
    log.info('odd', {
      circle,
      big: 12n,
      bytes: Buffer.from('abc'),
      at: new Date(0),
      broken: new Date(Number.NaN),
      nothing: null,
      missing: undefined,
      nan: Number.NaN,
      map: new Map([['a', 1]]),
      set: new Set(['a']),
      many: Array.from({ length: 500 }, (_, i) => i),
      fn: () => 1,
      inner: new Error('inside'),
      long: 'x'.repeat(50_000),
      DATABASE_URL: 'kept as it is',
    });
    const line = last();
    expect(line).toMatchObject({
      big: '12',
      bytes: '<3 bytes>',
      at: '1970-01-01T00:00:00.000Z',
      broken: 'Invalid Date',
      nothing: null,
      nan: 'NaN',
      map: { a: 1 },
      set: ['a'],
      inner: 'Error: inside',
      DATABASE_URL: 'kept as it is',
    });
    expect(JSON.stringify(line.circle).length).toBeLessThan(500);
    expect(line.many).toHaveLength(201);
    expect(String(line.long).length).toBeLessThan(17_000);
    expect(Object.keys(line)).not.toContain('missing');
  });

  test('is readable for people where that is asked for', () => {
    const { log, written } = logger({ format: 'pretty' });
    log.warning('turn.retried', { turnId: 't1' });
    expect(written[0]).toMatch(
      /^\[\d\d:\d\d:\d\d\.\d{3}\] WARNING: gateway · turn\.retried \{"turn_id":"t1"\}\n$/,
    );
  });
});

describe('redaction', () => {
  const key = 'sk_dev_acme00000001_0123456789abcdef0123456789abcdef';
  const jwt = 'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl';
  test.each([
    ['our key', `refused ${key}`, 'refused sk_***'],
    ["a model's key", 'key sk-proj-abcdefghijkl is bad', 'key sk_*** is bad'],
    ['a bearer', `Authorization: Bearer ${jwt}`, 'Authorization: Bearer ***'],
    ['a bare JWT', `token ${jwt}.`, 'token ***.'],
    [
      'a URL',
      'connect postgres://app:hunter2@db:5432/x failed',
      'connect postgres://app:***@db:5432/x failed',
    ],
    ['a pair', 'host=db password=hunter2 user=app', 'host=db password=*** user=app'],
    ['a JSON pair', '{"api_key":"hunter2","a":1}', '{"api_key":***,"a":1}'],
    ['an environment', 'MODEL_API_KEY=hunter2', 'MODEL_API_KEY=***'],
    ['an access key', 'AKIAABCDEFGHIJKLMNOP', 'AKIA***'],
    ['a private key', '-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----', '*** private key ***'],
    [
      'no secret',
      'turn 0af7 ended: 3 tokens, key tenant:session',
      'turn 0af7 ended: 3 tokens, key tenant:session',
    ],
  ])('of %s', (_, given, written) => {
    const { log, last } = logger();
    log.error('x', { text: given, deep: [{ text: given }], error: new Error(given) }, given);
    const line = last();
    expect(line).toMatchObject({
      text: written,
      deep: [{ text: written }],
      error_message: written,
      message: written,
    });
    if (given !== written) expect(JSON.stringify(line)).not.toMatch(/hunter2|0123456789abcdef|c2lnbmF0dXJl/);
  });

  test('of fields by their name', () => {
    const { log, last } = logger();
    log.info('x', {
      password: 'a',
      apiKey: 'b',
      'x-api-key': 'c',
      nested: { accessToken: 'd' },
      inputTokens: 5,
    });
    expect(last()).toMatchObject({
      password: '***',
      api_key: '***',
      'x-api-key': '***',
      nested: { access_token: '***' },
      input_tokens: 5,
    });
  });
});
