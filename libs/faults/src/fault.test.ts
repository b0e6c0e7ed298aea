import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { catalog, isFaultCode } from './catalog.ts';
import { renderErrorsPage } from './errors-page.ts';
import { asFault, Fault, fault, isFault } from './fault.ts';

describe('a fault', () => {
  test('carries what its code says, and what the thrower adds', () => {
    const cause = new Error('ECONNREFUSED');
    const made = fault('DATABASE_UNAVAILABLE', 'no connection', {
      cause,
      retryAfterMs: 500,
      details: { pool: 'main' },
    });
    expect(made).toBeInstanceOf(Error);
    expect(made).toMatchObject({
      name: 'Fault',
      code: 'DATABASE_UNAVAILABLE',
      status: 503,
      retryable: true,
      message: 'no connection',
      retryAfterMs: 500,
      details: { pool: 'main' },
      cause,
    });
  });

  test('is told from other errors, by code too', () => {
    const missing = fault('NOT_FOUND', 'no such session');
    expect(isFault(missing)).toBe(true);
    expect(isFault(missing, 'NOT_FOUND')).toBe(true);
    expect(isFault(missing, 'CONFLICT')).toBe(false);
    expect(isFault(new Error('NOT_FOUND'))).toBe(false);
    expect(isFault(undefined)).toBe(false);
  });
});

describe('asFault', () => {
  test('keeps a fault', () => {
    const given = fault('CONFLICT', 'busy');
    expect(asFault(given)).toBe(given);
  });

  test.each([
    ['an Error', new TypeError('x is undefined'), 'INTERNAL_ERROR'],
    ['text', 'boom', 'INTERNAL_ERROR'],
    ['nothing', undefined, 'INTERNAL_ERROR'],
    ['null', null, 'INTERNAL_ERROR'],
    ['an abort', AbortSignal.abort().reason, 'ABORTED'],
    ['a timeout', new DOMException('late', 'TimeoutError'), 'TIMEOUT'],
  ])('makes %s one, with the thrown value as cause', (_, thrown, code) => {
    const made = asFault(thrown);
    expect(made).toBeInstanceOf(Fault);
    expect(made.code).toBe(code);
    if (thrown !== undefined) expect(made.cause).toBe(thrown);
  });

  test('never takes an unknown error for retryable, nor shows its message', () => {
    const made = asFault(new Error('password is hunter2'));
    expect(made.retryable).toBe(false);
    expect(made.message).not.toContain('hunter2');
  });
});

describe('the catalog', () => {
  test.each(Object.entries(catalog))(
    '%s has a code, a status and a meaning',
    (code, { status, title, meaning }) => {
      expect(code).toMatch(/^[A-Z]+(_[A-Z]+)*$/);
      expect(status).toBeGreaterThanOrEqual(400);
      expect(status).toBeLessThan(600);
      expect(title).not.toBe('');
      expect(meaning).toMatch(/\.$/);
    },
  );

  test('knows its codes, and no inherited name', () => {
    expect(isFaultCode('LEASE_LOST')).toBe(true);
    expect(isFaultCode('toString')).toBe(false);
  });

  test('is what docs/reference/errors.md says', () => {
    const page = readFileSync(join(import.meta.dirname, '../../../docs/reference/errors.md'), 'utf8');
    expect(page, 'run node libs/faults/src/generate-errors-page.ts').toBe(renderErrorsPage());
  });
});
