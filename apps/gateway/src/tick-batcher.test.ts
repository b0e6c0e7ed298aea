import { setImmediate as nextTick } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { createTickBatcher } from './tick-batcher.ts';

function batcher(
  overrides: Partial<
    Record<'maxItems' | 'maxGroups' | 'concurrency' | 'maxWaiting' | 'besideAt', number>
  > = {},
) {
  const batches: string[][] = [];
  const gates: (() => void)[] = [];
  const subject = createTickBatcher<string, string>({
    maxItems: 256,
    maxGroups: 64,
    concurrency: 1,
    maxWaiting: 1000,
    groupOf: (item) => item.split(':')[0] ?? '',
    ...overrides,
    async run(items) {
      batches.push([...items]);
      await new Promise<void>((resolve) => gates.push(resolve));
      return items.map((item) => `done ${item}`);
    },
  });
  return { subject, batches, release: () => gates.shift()?.() };
}

describe('tick batcher', () => {
  it('puts what is asked for in one tick into one batch and answers each its own', async () => {
    const { subject, batches, release } = batcher();
    const results = Promise.all([subject.add('a:1'), subject.add('b:1'), subject.add('a:2')]);
    await nextTick();
    release();
    expect(await results).toEqual(['done a:1', 'done b:1', 'done a:2']);
    expect(batches).toEqual([['a:1', 'b:1', 'a:2']]);
  });

  it('collects while batches are under way and never runs more than allowed at once', async () => {
    const { subject, batches, release } = batcher({ concurrency: 2 });
    const all = [subject.add('a:1')];
    await nextTick();
    all.push(subject.add('a:2'));
    await nextTick();
    all.push(subject.add('a:3'), subject.add('a:4'));
    await nextTick();
    expect(batches).toEqual([['a:1'], ['a:2']]);
    release();
    await all[0];
    await nextTick();
    expect(batches[2]).toEqual(['a:3', 'a:4']);
    release();
    release();
    await Promise.all(all);
  });

  it('begins a second batch beside the first only when enough waits', async () => {
    const { subject, batches, release } = batcher({ concurrency: 2, besideAt: 3 });
    const all = [subject.add('a:1')];
    await nextTick();
    all.push(subject.add('a:2'), subject.add('a:3'));
    await nextTick();
    expect(batches).toHaveLength(1);
    all.push(subject.add('a:4'));
    await nextTick();
    expect(batches).toEqual([['a:1'], ['a:2', 'a:3', 'a:4']]);
    release();
    release();
    await Promise.all(all);
  });

  it('bounds items and tenants of a batch, in the order of arrival', async () => {
    const { subject, batches, release } = batcher({ maxItems: 3, maxGroups: 2, concurrency: 9 });
    const all = ['a:1', 'a:2', 'a:3', 'a:4', 'b:1', 'c:1', 'a:5'].map((item) => subject.add(item));
    await nextTick();
    expect(batches).toEqual([
      ['a:1', 'a:2', 'a:3'],
      ['a:4', 'b:1'],
      ['c:1', 'a:5'],
    ]);
    for (let i = 0; i < 3; i += 1) release();
    await Promise.all(all);
  });

  it('refuses at once past its bound instead of growing', async () => {
    const { subject, release } = batcher({ maxWaiting: 2 });
    const first = subject.add('a:1');
    const second = subject.add('a:2');
    await expect(subject.add('a:3')).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    await nextTick();
    release();
    await Promise.all([first, second]);
  });

  it('gives a failed batch to each of its items and goes on', async () => {
    let fail = true;
    const subject = createTickBatcher<number, number>({
      maxItems: 8,
      maxGroups: 8,
      concurrency: 1,
      maxWaiting: 8,
      groupOf: () => '',
      run: async (items) => {
        if (fail) throw new Error('away');
        return items;
      },
    });
    const both = await Promise.allSettled([subject.add(1), subject.add(2)]);
    expect(both.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    fail = false;
    expect(await subject.add(3)).toBe(3);
  });
});
