import { expect, it } from 'vitest';
import { createSingleFlight } from './single-flight.ts';

it('lets one of a hundred go and answers the others from it', async () => {
  const run = createSingleFlight<string>();
  let went = 0;
  const all = await Promise.all(
    Array.from({ length: 100 }, () =>
      run(
        'key',
        async () => {
          went += 1;
          await new Promise((resolve) => setTimeout(resolve, 5));
          return 'stored';
        },
        () => true,
        (first) => `${first} before`,
      ),
    ),
  );
  expect(went).toBe(1);
  expect(all.filter((each) => each === 'stored')).toHaveLength(1);
  expect(all.filter((each) => each === 'stored before')).toHaveLength(99);
});

it('sends the next one when the first left nothing to answer from', async () => {
  const run = createSingleFlight<string>();
  const order: string[] = [];
  const go = (name: string, result: string) =>
    run(
      'key',
      async () => {
        order.push(name);
        await Promise.resolve();
        if (result === 'throws') throw new Error('refused');
        return result;
      },
      (each) => each === 'stored',
      () => 'followed',
    );
  const all = await Promise.allSettled([
    go('a', 'refused'),
    go('b', 'throws'),
    go('c', 'stored'),
    go('d', 'stored'),
  ]);
  expect(order).toEqual(['a', 'b', 'c']);
  expect(all.map((each) => (each.status === 'fulfilled' ? each.value : 'threw'))).toEqual([
    'refused',
    'threw',
    'stored',
    'followed',
  ]);
});

it('keeps keys apart and remembers nothing', async () => {
  const run = createSingleFlight<number>();
  let went = 0;
  const go = (key: string) =>
    run(
      key,
      async () => ++went,
      () => true,
      () => -1,
    );
  expect(await Promise.all([go('a'), go('b')])).toEqual([1, 2]);
  expect(await go('a')).toBe(3);
});
