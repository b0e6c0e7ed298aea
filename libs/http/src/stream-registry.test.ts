import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { createStreamRegistry } from './stream-registry.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function withStreams(count: number) {
  const registry = createStreamRegistry(() => undefined);
  const ended: { atMs: number; retryMs: number }[] = [];
  const startedAt = Date.now();
  for (let index = 0; index < count; index += 1) {
    const stream = {
      sweep: () => undefined,
      destroy: () => undefined,
      drain(retryMs: number) {
        ended.push({ atMs: Date.now() - startedAt, retryMs });
        registry.remove(stream, 'drain');
      },
    };
    registry.add(stream);
  }
  return { registry, ended };
}

it('ends ten thousand streams evenly over five seconds, each with a time of its own to come back', async () => {
  const { registry, ended } = withStreams(10_000);
  const drained = registry.drain(new AbortController().signal);
  await vi.advanceTimersByTimeAsync(5_000);
  await drained;
  expect(ended).toHaveLength(10_000);
  const inSecond = (second: number) => ended.filter(({ atMs }) => Math.floor(atMs / 1_000) === second).length;
  for (const second of [0, 1, 2, 3, 4]) expect(inSecond(second)).toBe(2_000);
  const retries = ended.map(({ retryMs }) => retryMs);
  expect(Math.min(...retries)).toBeGreaterThanOrEqual(250);
  expect(Math.max(...retries)).toBeLessThanOrEqual(5_250);
  // Clients come back over ten seconds, not at one moment: no second has more than a third of them.
  const backInSecond = ended.map(({ atMs, retryMs }) => Math.floor((atMs + retryMs) / 1_000));
  for (let second = 0; second <= 10; second += 1)
    expect(backInSecond.filter((each) => each === second).length).toBeLessThan(3_400);
});

it('ends few streams at once', async () => {
  const { registry, ended } = withStreams(20);
  await registry.drain(new AbortController().signal);
  expect(ended).toHaveLength(20);
});

it('ends what is left at once when its time is over', async () => {
  const { registry, ended } = withStreams(10_000);
  const cut = new AbortController();
  const drained = registry.drain(cut.signal);
  await vi.advanceTimersByTimeAsync(1_000);
  cut.abort();
  await drained;
  expect(ended).toHaveLength(10_000);
  expect(Math.max(...ended.map(({ atMs }) => atMs))).toBe(1_000);
});
