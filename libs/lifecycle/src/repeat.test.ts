import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { repeat } from './repeat.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

test('a step that fails ends nothing, and says whether it is news', async () => {
  const stop = new AbortController();
  const outcomes = ['ok', 'fails', 'fails', 'ok', 'fails'];
  const told: string[] = [];
  const running = repeat(
    1_000,
    async () => {
      const outcome = outcomes.shift() ?? 'ok';
      if (outcome === 'fails') throw new Error(outcome);
      told.push(outcome);
    },
    (_error, again) => void told.push(again ? 'fails again' : 'fails'),
    stop.signal,
  );
  await vi.advanceTimersByTimeAsync(0);
  expect(told).toEqual(['ok']);
  await vi.advanceTimersByTimeAsync(4_500);
  expect(told.slice(0, 5)).toEqual(['ok', 'fails', 'fails again', 'ok', 'fails']);
  stop.abort();
  await running;
  expect(vi.getTimerCount()).toBe(0);
});

test('steps are never beside each other, and a stop waits for the one that runs', async () => {
  const stop = new AbortController();
  let active = 0;
  let most = 0;
  let steps = 0;
  const running = repeat(
    100,
    async () => {
      active += 1;
      most = Math.max(most, active);
      await new Promise((resolve) => setTimeout(resolve, 500));
      active -= 1;
      steps += 1;
    },
    () => undefined,
    stop.signal,
  );
  await vi.advanceTimersByTimeAsync(700);
  stop.abort();
  await vi.advanceTimersByTimeAsync(500);
  await running;
  expect({ most, steps, active }).toEqual({ most: 1, steps: 2, active: 0 });
});
