import { timingSafeEqual } from 'node:crypto';
import { expect, test, vi } from 'vitest';

const compare = vi.hoisted(() => vi.fn());
vi.mock('node:crypto', async (original) => {
  const real = await original<typeof import('node:crypto')>();
  compare.mockImplementation(real.timingSafeEqual);
  return { ...real, timingSafeEqual: compare };
});

import { createApiKeys } from './api-keys.ts';
import { BoundedCache } from './bounded-cache.ts';
import { hashApiKey, newApiKey, parseApiKey } from './key-form.ts';

test('new keys are of the form, and no two alike', () => {
  const made = Array.from({ length: 500 }, () => newApiKey('prod'));
  for (const key of made) expect(parseApiKey(key.text)).toEqual(key);
  expect(new Set(made.map((key) => key.lookup)).size).toBe(500);
  expect(hashApiKey(made[0]?.text ?? '')).toHaveLength(32);
});

test('what is not of the form is no key', () => {
  const good = newApiKey('dev').text;
  const secret = 'x'.repeat(32);
  for (const text of [
    '',
    'sk_',
    `sk_dev_ACME00000001_${secret}`,
    `sk_test_acme00000001_${secret}`,
    `sk_dev_acme0000001_${secret}`,
    `sk_dev_acme00000001_${secret.slice(1)}`,
    `sk_dev_acme00000001_${'x'.repeat(129)}`,
    `${good} `,
    `${good}\n`,
    ` ${good}`,
  ]) {
    expect(parseApiKey(text), text).toBeUndefined();
  }
});

test('an unknown lookup id is compared in constant time all the same', async () => {
  expect(timingSafeEqual).toBe(compare);
  const nothing = { query: async () => [] };
  const { authenticate } = createApiKeys({ database: nothing, environment: 'dev' });
  await authenticate({ 'x-api-key': newApiKey('dev').text }).catch(() => undefined);
  expect(compare).toHaveBeenCalledTimes(1);
});

test('the cache forgets by time and by number, the least used first', () => {
  let now = 0;
  const cache = new BoundedCache<number>(2, 100, () => now);
  cache.set('a', 1);
  cache.set('b', 2);
  expect(cache.get('a')).toBe(1);
  cache.set('c', 3);
  expect(cache.get('b')).toBeUndefined();
  expect(cache.get('a')).toBe(1);
  now = 100;
  expect(cache.get('a')).toBeUndefined();
  expect(cache.size).toBe(1);
});
