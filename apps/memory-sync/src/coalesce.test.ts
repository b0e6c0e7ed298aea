import { expect, test } from 'vitest';
import { coalesced } from './coalesce.ts';

test('calls of one turn of the event loop are one call by group, of so many at most', async () => {
  const calls: string[][] = [];
  const ask = coalesced(
    3,
    async (items: readonly string[]) => {
      calls.push([...items]);
      return items.map((item) => item.toUpperCase());
    },
    (item) => item.charAt(0),
  );
  const answers = await Promise.all(['a1', 'b1', 'a2', 'a3', 'a4', 'b2'].map(ask));
  expect(answers).toEqual(['A1', 'B1', 'A2', 'A3', 'A4', 'B2']);
  expect(calls).toEqual([['a1', 'a2', 'a3'], ['b1', 'b2'], ['a4']]);
  await ask('a5');
  expect(calls.at(-1)).toEqual(['a5']);
});

test('a failure is everybody’s of the call, and of nobody else', async () => {
  const ask = coalesced(
    10,
    async (items: readonly string[]) => {
      if (items.includes('bad')) throw new Error('refused');
      return items;
    },
    (item) => (item === 'good' ? 'g' : 'b'),
  );
  const settled = await Promise.allSettled(['bad', 'beside', 'good'].map(ask));
  expect(settled.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'fulfilled']);
});
