import { expect, it } from 'vitest';
import { FairQueue } from './fair-queue.ts';

function filled(
  max: number,
  ...items: string[]
): { queue: FairQueue<string>; dropped: (string | undefined)[] } {
  const queue = new FairQueue<string>(max);
  return { queue, dropped: items.map((item) => queue.push(item.slice(0, 1), item)) };
}
const taken = (queue: FairQueue<string>) => Array.from({ length: queue.size + 1 }, () => queue.take());

it('takes the tenants in turns, each in the order in which its own came', () => {
  const { queue } = filled(9, 'a1', 'a2', 'a3', 'b1', 'b2', 'c1');
  expect(taken(queue)).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3', undefined]);
});

it('drops the newest of the tenant that has most, of equals the newcomer', () => {
  expect(filled(2, 'a1', 'a2', 'a3').dropped).toEqual([undefined, undefined, 'a3']);
  const { queue, dropped } = filled(3, 'a1', 'a2', 'a3', 'b1', 'b2');
  expect(dropped).toEqual([undefined, undefined, undefined, 'a3', 'b2']);
  expect(queue.size).toBe(3);
  expect(taken(queue)).toEqual(['a1', 'b1', 'a2', undefined]);
  expect(filled(1, 'a1', 'b1').dropped).toEqual([undefined, 'b1']);
});

it('is empty without a tenant that has nothing left', () => {
  const { queue } = filled(1, 'a1');
  expect(queue.push('b', 'b1')).toBe('b1');
  expect(taken(queue)).toEqual(['a1', undefined]);
  expect(queue.size).toBe(0);
});
