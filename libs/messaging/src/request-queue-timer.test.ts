import { createRequire } from 'node:module';
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { patchRequestQueueTimer } from './request-queue-timer.ts';

const require = createRequire(import.meta.url);

interface Queue {
  pending: unknown[];
  throttledUntil: number;
  throttleCheckTimeoutId: NodeJS.Timeout | null;
  push(request: unknown): void;
  fulfillRequest(answer: { correlationId: number; payload: null; size: number }): void;
  maybeThrottle(ms: number): void;
  checkPendingRequests(): void;
  destroy(): void;
}

const logger = { debug: () => undefined, warn: () => undefined };
function createQueue(maxInFlightRequests: number | null = null): Queue {
  const RequestQueue: new (options: object) => Queue = require('kafkajs/src/network/requestQueue');
  return new RequestQueue({
    maxInFlightRequests,
    requestTimeout: 1_000,
    enforceRequestTimeout: false,
    clientId: 'c',
    broker: 'b',
    logger,
  });
}

const request = (correlationId: number, sent: number[]) => ({
  entry: {
    correlationId,
    apiKey: 0,
    apiName: 'x',
    apiVersion: 0,
    resolve: () => undefined,
    reject: () => undefined,
  },
  expectResponse: true,
  sendRequest: () => sent.push(correlationId),
});

beforeAll(() => {
  patchRequestQueueTimer();
  patchRequestQueueTimer(); // twice is once
});
afterEach(() => vi.useRealTimers());

describe('the RequestQueue timer (kafkajs issue 1751)', () => {
  it('does not run while nothing is pending', () => {
    vi.useFakeTimers();
    const queue = createQueue();
    const sent: number[] = [];
    for (let n = 1; n <= 5; n += 1) {
      queue.push(request(n, sent));
      queue.fulfillRequest({ correlationId: n, payload: null, size: 0 });
    }
    expect(sent).toEqual([1, 2, 3, 4, 5]);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('is still what the class has: a release of kafkajs that renamed it would lose the override silently', () => {
    const { prototype }: { prototype: object } = require('kafkajs/src/network/requestQueue');
    expect(Object.getOwnPropertyNames(prototype)).toEqual(
      expect.arrayContaining(['scheduleCheckPendingRequests', 'checkPendingRequests']),
    );
    expect(require('kafkajs/package.json').version).toBe('2.2.4');
  });

  it('sends what was throttled when the throttle ends, never with a negative delay', () => {
    vi.useFakeTimers();
    const delays: (number | undefined)[] = [];
    const setTimer = vi.spyOn(globalThis, 'setTimeout');
    const queue = createQueue();
    const sent: number[] = [];
    queue.maybeThrottle(200);
    queue.push(request(1, sent));
    expect(sent).toEqual([]);
    vi.advanceTimersByTime(199);
    expect(sent).toEqual([]);
    vi.advanceTimersByTime(20);
    expect(sent).toEqual([1]);
    delays.push(...setTimer.mock.calls.map(([, delay]) => delay));
    expect(delays.every((delay) => delay !== undefined && delay > 0)).toBe(true);
    setTimer.mockRestore();
    vi.advanceTimersByTime(1_000);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('sends what waited behind the requests in flight when one of them is answered', () => {
    vi.useFakeTimers();
    const queue = createQueue(1);
    const sent: number[] = [];
    queue.push(request(1, sent));
    queue.push(request(2, sent));
    expect(sent).toEqual([1]);
    queue.fulfillRequest({ correlationId: 1, payload: null, size: 0 });
    expect(sent).toEqual([1, 2]);
    queue.destroy();
  });
});
