import { expect, it } from 'vitest';
import { RebuildBudget } from './rebuild-budget.ts';

it('takes four rebuilds within its window, and forgets those before it', () => {
  const inRow = new RebuildBudget(1_000);
  expect([0, 1, 2, 3, 4].map((now) => inRow.spend(now))).toEqual([false, false, false, false, true]);
  const now_and_then = new RebuildBudget(1_000); // a window of 10 s
  expect([0, 2_500, 5_000, 7_500, 10_000, 12_500].some((now) => now_and_then.spend(now))).toBe(false);
  expect(now_and_then.spent).toBe(4);
});
