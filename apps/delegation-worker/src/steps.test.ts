import { expect, it } from 'vitest';
import { endedState, maxOutcomeBytes, storable } from './steps.ts';

it('an outcome is what JSON makes of it, within its bound', () => {
  expect(storable({ a: undefined, at: new Date(0), b: [undefined] })).toEqual({
    at: '1970-01-01T00:00:00.000Z',
    b: [null],
  });
  expect(() => storable({ text: 'x'.repeat(maxOutcomeBytes) })).toThrow(
    expect.objectContaining({ code: 'RECORD_TOO_LARGE', retryable: false }),
  );
  expect(() => storable({ text: 'a\u0000b' })).toThrow(expect.objectContaining({ code: 'VALIDATION_ERROR' }));
  expect(() => storable({ text: 'a\ud800b' })).toThrow(expect.objectContaining({ code: 'VALIDATION_ERROR' }));
  const deep = JSON.parse(`${'{"a":'.repeat(70)}1${'}'.repeat(70)}`);
  expect(() => storable(deep)).toThrow(expect.objectContaining({ code: 'VALIDATION_ERROR' }));
  // The six characters, not the one: a backslash that JSON escapes.
  expect(storable({ text: '\\u0000' })).toEqual({ text: '\\u0000' });
});

it('the end of a child is read as it was told, and anything else is a failure', () => {
  expect(endedState({ status: 'completed', result: { a: 1 } })).toEqual({
    status: 'completed',
    result: { a: 1 },
  });
  const error = { error_code: 'X', message: 'y' };
  expect(endedState({ status: 'cancelled', error })).toEqual({ status: 'cancelled', error });
  expect(endedState({ status: 'unheard of' })).toEqual({
    status: 'failed',
    error: { error_code: 'INTERNAL_ERROR', message: 'the task failed' },
  });
});
