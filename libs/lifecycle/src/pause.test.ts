import { getEventListeners } from 'node:events';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { pause } from './pause.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

test('a pause takes its time', async () => {
  let over = false;
  void pause(1_000).then(() => {
    over = true;
  });
  await vi.advanceTimersByTimeAsync(999);
  expect(over).toBe(false);
  await vi.advanceTimersByTimeAsync(1);
  expect(over).toBe(true);
});

test('a pause ends with its signal and leaves no timer and no listener behind', async () => {
  const stop = new AbortController();
  const waiting = pause(60_000, stop.signal);
  stop.abort();
  await waiting;
  expect(vi.getTimerCount()).toBe(0);
  expect(getEventListeners(stop.signal, 'abort')).toHaveLength(0);
});

test('a pause that has run leaves nothing on a signal that lives on', async () => {
  const { signal } = new AbortController();
  const waiting = pause(10, signal);
  await vi.advanceTimersByTimeAsync(10);
  await waiting;
  expect(getEventListeners(signal, 'abort')).toHaveLength(0);
});

test('an aborted signal and a delay of nothing pause not at all', async () => {
  await pause(60_000, AbortSignal.abort());
  await pause(0);
  await pause(-1);
  expect(vi.getTimerCount()).toBe(0);
});
