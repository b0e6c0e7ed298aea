import { expect, test } from 'vitest';
import { runCell } from './cell.ts';
import { cpuMsOf, latencyOf, percentile } from './measure.ts';

test('percentiles are nearest rank', () => {
  const sample = [5, 1, 4, 2, 3];
  expect(percentile(sample, 0.5)).toBe(3);
  expect(percentile(sample, 0.99)).toBe(5);
  expect(percentile(sample, 0)).toBe(1);
  expect(percentile([], 0.5)).toBeNaN();
  expect(latencyOf(sample)).toEqual({ count: 5, p50Ms: 3, p99Ms: 5, maxMs: 5 });
});

test.runIf(process.platform === 'linux')('CPU of a process that is gone counts nothing', () => {
  const own = cpuMsOf([process.pid]);
  expect(own).toBeGreaterThan(0);
  expect(cpuMsOf([process.pid, 2 ** 22 + 1])).toBeGreaterThanOrEqual(own);
});

test('variants are interleaved, aims are judged on medians, and an incorrect run is shown', async () => {
  const order: string[] = [];
  let settled = 0;
  const variant = (name: string, values: number[]) => ({
    name,
    run: async () => {
      order.push(name);
      const rate = values.shift() ?? 0;
      return { figures: { rate }, faults: rate === 90 ? ['one message lost'] : [] };
    },
  });
  const result = await runCell(
    {
      id: 'B0',
      title: 'a cell of a test',
      variants: [variant('product', [40, 90, 50]), variant('floor', [100, 100, 200])],
      aims: [
        { figure: 'rate', of: 'floor', bound: '>=', value: 0.5 },
        { figure: 'rate', bound: '<=', value: 10 },
      ],
      pairs: 3,
      settle: async () => {
        settled += 1;
      },
    },
    () => {},
  );
  expect(order).toEqual(['product', 'floor', 'product', 'floor', 'product', 'floor']);
  expect(settled).toBe(6);
  expect(result.summary.product?.rate).toEqual({ median: 50, low: 40, high: 90 });
  expect(result.aims.map((aim) => aim.met)).toEqual([true, false]);
  expect(result.faults).toEqual(['product run 2: one message lost']);
});
