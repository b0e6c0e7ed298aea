import { expect, test } from 'vitest';
import { isTenant, parseKey, sessionKey, toolKey } from './keys.ts';

test('a key splits into the tenant and the rest, at the first colon', () => {
  expect(parseKey(sessionKey('acme', 's1'))).toEqual({ tenant: 'acme', id: 's1' });
  expect(parseKey(toolKey('acme', 'mcp:search'))).toEqual({ tenant: 'acme', id: 'mcp:search' });
});

test.each(['', 'acme', ':s1', 'acme:', 'ACME:s1', 'a b:s1', `${'a'.repeat(41)}:s1`])(
  '%j is no key',
  (key) => {
    expect(parseKey(key)).toBeUndefined();
  },
);

test('a tenant is a short slug', () => {
  expect(['acme', 'a', 'a-1', 'a'.repeat(40)].every(isTenant)).toBe(true);
  expect(['', 'a_b', 'a:b', 'é', undefined, 1].some(isTenant)).toBe(false);
});
