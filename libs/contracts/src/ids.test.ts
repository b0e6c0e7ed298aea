import { afterEach, expect, test, vi } from 'vitest';
import { isId, newId } from './ids.ts';

afterEach(() => {
  vi.restoreAllMocks();
});

test('an id is a UUIDv7 of now', () => {
  const before = Date.now();
  const id = newId();
  expect(isId(id)).toBe(true);
  expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  const ms = Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16);
  expect(ms).toBeGreaterThanOrEqual(before);
  expect(ms).toBeLessThanOrEqual(Date.now() + 1);
});

test('ids sort in the order they were made, more than a millisecond holds of them', () => {
  const ids = Array.from({ length: 50_000 }, newId);
  expect(ids).toEqual([...ids].sort());
  expect(new Set(ids).size).toBe(ids.length);
});

test('ids go on rising when the clock steps back', () => {
  const first = newId();
  vi.spyOn(Date, 'now').mockReturnValue(Date.now() - 3_600_000);
  const second = newId();
  expect(second > first).toBe(true);
});

test.each(['', 'x', 1, null, '01a1fd90-4e49-743c-9c3c-db6620a4e1a', '01A1FD90-4E49-743C-9C3C-DB6620A4E1AC'])(
  '%j is no id',
  (text) => {
    expect(isId(text)).toBe(false);
  },
);
