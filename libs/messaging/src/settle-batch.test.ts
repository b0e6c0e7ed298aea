import { fault } from '@signalbox/faults/fault';
import { describe, expect, it } from 'vitest';
import { judgeHandler, settleInOrder } from './settle-batch.ts';

interface Told {
  handled: number[][];
  buried: number[];
  settled: number[];
}

async function settle(
  items: number[],
  fails: (items: readonly number[]) => unknown,
  buryFails = false,
): Promise<Told & { error: unknown }> {
  const told: Told = { handled: [], buried: [], settled: [] };
  let error: unknown;
  try {
    await settleInOrder(
      items,
      {
        async handle(some) {
          const failure = fails(some);
          if (failure !== undefined) throw failure;
          told.handled.push([...some]);
        },
        async bury(item) {
          if (buryFails) throw new Error('no');
          told.buried.push(item);
        },
        isDeclared: (item, failure) => failure instanceof Error && failure.message === `declared ${item}`,
      },
      (some) => told.settled.push(...some),
    );
  } catch (thrown) {
    error = thrown;
  }
  return { ...told, error };
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

describe('settleInOrder', () => {
  it('handles all at once when nothing is wrong', async () => {
    expect(await settle(range(5), () => undefined)).toMatchObject({
      handled: [range(5)],
      buried: [],
      settled: range(5),
    });
  });

  it('finds every subset of bad ones, buries them alone and settles all in order', async () => {
    for (let mask = 0; mask < 64; mask += 1) {
      const bad = range(6).filter((n) => mask & (1 << n));
      const told = await settle(range(6), (some) =>
        some.some((n) => bad.includes(n)) ? new TypeError('x') : undefined,
      );
      expect(told.buried).toEqual(bad);
      expect(told.handled.flat()).toEqual(range(6).filter((n) => !bad.includes(n)));
      expect(told.settled).toEqual(range(6));
    }
  });

  it('takes a declared one out without halving', async () => {
    const told = await settle(range(8), (some) => (some.includes(3) ? new Error('declared 3') : undefined));
    expect(told.handled).toEqual([
      [0, 1, 2],
      [4, 5, 6, 7],
    ]);
    expect(told.buried).toEqual([3]);
  });

  it('stops where a store is away, with what was settled before it', async () => {
    const told = await settle(range(8), (some) => {
      if (some.includes(1)) return new Error('poison');
      return some.includes(5) ? fault('DATABASE_UNAVAILABLE', 'away') : undefined;
    });
    expect(told.settled).toEqual([0, 1, 2, 3]);
    expect(told.error).toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
  });

  it('keeps an item whose dead letter cannot be stored', async () => {
    const told = await settle([1], () => new Error('poison'), true);
    expect(told.settled).toEqual([]);
    expect(told.error).toMatchObject({ retryable: true });
  });

  it('repeats what lost a race at once', async () => {
    let tries = 0;
    const told = await settle([1, 2], () => {
      tries += 1;
      return tries < 3
        ? fault('DATABASE_UNAVAILABLE', 'deadlock', { details: { kind: 'conflict' } })
        : undefined;
    });
    expect(told.settled).toEqual([1, 2]);
  });
});

describe('judgeHandler', () => {
  it('is total', () => {
    const pgError = (code: string) => Object.assign(new Error('x'), { code, severity: 'ERROR' });
    expect(
      [
        undefined,
        null,
        'x',
        1,
        new TypeError('x'),
        fault('POISON_RECORD', 'x'),
        pgError('23505'),
        pgError('22P02'),
        pgError('P0001'),
        pgError('54000'),
      ].map(judgeHandler),
    ).toEqual(Array(10).fill('poison'));
    expect(
      [
        fault('REDIS_UNAVAILABLE', 'x'),
        fault('TIMEOUT', 'x'),
        new DOMException('x', 'AbortError'),
        new DOMException('x', 'TimeoutError'),
        pgError('42501'),
        pgError('42P01'),
        pgError('25006'),
      ].map(judgeHandler),
    ).toEqual(Array(7).fill('away'));
  });
});
