import { fault } from '@signalbox/faults/fault';
import { expect, test } from 'vitest';
import { retryDelayMs, defaultRetryRules as rules } from './retry-delay.ts';

const away = fault('DATABASE_UNAVAILABLE', 'away');

test('the bound doubles up to the cap, and any pause below it may come', () => {
  const most = [0, 1, 2, 3, 4].map((retries) => retryDelayMs(away, retries, 0, rules, () => 1));
  expect(most).toEqual([200, 400, 800, 1600, 3200]);
  expect(retryDelayMs(away, 3, 0, { ...rules, maxDelayMs: 1000 }, () => 1)).toBe(1000);
  expect(retryDelayMs(away, 3, 0, rules, () => 0)).toBe(0);
});

test('a fault that names its time is waited for', () => {
  const limited = fault('MODEL_RATE_LIMITED', 'slow down', { retryAfterMs: 5000 });
  expect(retryDelayMs(limited, 0, 0, rules, () => 0)).toBe(5000);
});

test('ends with the count, the age, or a fault that cannot pass', () => {
  expect(retryDelayMs(away, rules.maxRetries, 0, rules)).toBeUndefined();
  expect(retryDelayMs(away, 0, rules.maxAgeMs, rules)).toBeUndefined();
  expect(retryDelayMs(fault('VALIDATION_ERROR', 'no'), 0, 0, rules)).toBeUndefined();
  expect(retryDelayMs(new TypeError('odd'), 0, 0, rules)).toBeDefined();
});
