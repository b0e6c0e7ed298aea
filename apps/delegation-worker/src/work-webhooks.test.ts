import { fault } from '@signalbox/faults/fault';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { retryDelayMs } from '@signalbox/work/retry-delay';
import { describe, expect, it } from 'vitest';
import { hostBreakers, speaksAgainstHost } from './host-breakers.ts';
import { judge, readRetryAfter, webhookRetry } from './work-webhooks.ts';

function thrownBy(status: number, headers: Record<string, string> = {}) {
  try {
    judge({ status, headers });
  } catch (error) {
    return error;
  }
  return undefined;
}

it('takes 2xx for delivered, 410 for the end, and everything else for a failure', () => {
  for (const status of [200, 201, 202, 204, 299]) expect(thrownBy(status)).toBeUndefined();
  expect(thrownBy(410)).toMatchObject({ code: 'WEBHOOK_GONE', retryable: false });
  for (const status of [301, 302, 307, 308, 400, 401, 404, 429, 500, 503]) {
    expect(thrownBy(status), String(status)).toMatchObject({ code: 'CALL_FAILED', retryable: true });
  }
  expect(thrownBy(503, { 'retry-after': '7' })).toMatchObject({ retryAfterMs: 7_000 });
});

it('reads Retry-After as seconds or a date, and nothing else', () => {
  const now = Date.parse('2026-01-01T00:00:00Z');
  expect(readRetryAfter('120', now)).toBe(120_000);
  expect(readRetryAfter('Thu, 01 Jan 2026 00:01:00 GMT', now)).toBe(60_000);
  expect(readRetryAfter('Wed, 31 Dec 2025 00:01:00 GMT', now)).toBe(0);
  expect(readRetryAfter('soon', now)).toBeUndefined();
  expect(readRetryAfter(undefined, now)).toBeUndefined();
});

describe('tries of a webhook', () => {
  const failure = fault('CALL_FAILED', 'not now');
  const longest = (retries: number, ageMs = 0) =>
    retryDelayMs(failure, retries, ageMs, webhookRetry, () => 1);

  it('pause for twice as long each time, up to an hour, for a day', () => {
    expect([0, 1, 2, 10, 11, 5_000].map((retries) => longest(retries))).toEqual([
      2_000, 4_000, 8_000, 2_048_000, 3_600_000, 3_600_000,
    ]);
    expect(longest(50, 24 * 3_600_000 - 1)).toBe(3_600_000);
    expect(longest(50, 24 * 3_600_000)).toBeUndefined();
  });

  it('never come before Retry-After, which counts for an hour at most', () => {
    const later = (retryAfterMs: number) =>
      retryDelayMs(fault('CALL_FAILED', 'not now', { retryAfterMs }), 0, 0, webhookRetry, () => 0);
    expect(later(90_000)).toBe(90_000);
    expect(later(7_200_000)).toBe(3_600_000);
  });

  it('end at once where trying again is of no use', () => {
    for (const code of ['WEBHOOK_GONE', 'ADDRESS_REFUSED'] as const) {
      expect(retryDelayMs(fault(code, ''), 0, 0, webhookRetry)).toBeUndefined();
    }
  });
});

it('what one tenant has at a host does not keep the webhooks of others from it', async () => {
  const breakers = hostBreakers({ timeoutMs: 1_000, log: silentLog, metrics: silentMetrics });
  const call = (tenant: string, status: number) =>
    breakers.of(tenant, 'hooks.example').run(async () => judge({ status, headers: {} }));
  for (let tries = 0; tries < 20; tries += 1) await call('acme', 500).catch(() => undefined);
  await expect(call('acme', 200)).rejects.toMatchObject({ code: 'BREAKER_OPEN' });
  await call('globex', 200);
  breakers.close();
});

it('a host is judged by what it does, not by what one tenant asks of it', () => {
  expect([500, 503, 429].map((status) => speaksAgainstHost(thrownBy(status)))).toEqual([true, true, true]);
  expect([302, 400, 401, 404, 410].map((status) => speaksAgainstHost(thrownBy(status)))).toEqual(
    Array(5).fill(false),
  );
  expect(speaksAgainstHost(fault('CALL_FAILED', 'refused'))).toBe(true);
  expect(speaksAgainstHost(fault('TIMEOUT', 'late'))).toBe(true);
  expect(speaksAgainstHost(fault('ADDRESS_REFUSED', 'private'))).toBe(false);
  expect(speaksAgainstHost(fault('ABORTED', 'stop'))).toBe(false);
});
