import { expect, it } from 'vitest';
import { createBatchSize } from './batch-size.ts';

it('halves what took too long, down to one record, and grows only where twice as much would have fitted', () => {
  const size = createBatchSize(256, 3_000);
  expect(size.told('away', 256, 10)).toBe(false); // refused at once: not for its size
  expect(size.limit).toBe(256);
  expect(size.told('away', 256, 3_000)).toBe(true);
  expect(size.limit).toBe(128);
  size.told('ok', 128, 2_000);
  expect(size.limit).toBe(128);
  size.told('ok', 128, 1_000);
  expect(size.limit).toBe(256);
  size.told('away', 100, 3_000);
  expect(size.limit).toBe(50);
  for (let n = 0; n < 10; n += 1) size.told('away', size.limit, 3_000);
  expect(size.limit).toBe(1);
  expect(size.told('away', 1, 3_000)).toBe(false);
  for (let n = 0; n < 10; n += 1) size.told('ok', 1, 5);
  expect(size.limit).toBe(256);
});
