import { expect, it } from 'vitest';
import { groupByTenant } from './tenant-rows.ts';

it('puts tenants in text order with their rows side by side, and knows where each came from', () => {
  const items = [
    { tenant: 'b', n: 1 },
    { tenant: 'a', n: 2 },
    { tenant: 'b', n: 3 },
    { tenant: 'a', n: 4 },
  ];
  const { tenants, upto, rows, origin } = groupByTenant(items);
  expect(tenants).toEqual(['a', 'b']);
  expect(upto).toEqual([2, 4]);
  expect(rows.map(({ n }) => n)).toEqual([2, 4, 1, 3]);
  expect(origin).toEqual([1, 3, 0, 2]);
});
