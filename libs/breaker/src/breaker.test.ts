import { fault, isFault } from '@signalbox/faults/fault';
import { silentLog } from '@signalbox/telemetry/silent';
import { startTelemetry } from '@signalbox/telemetry/telemetry';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Breaker, type BreakerOptions, createBreaker } from './breaker.ts';

const breakers: Breaker[] = [];

function breaker(options: Partial<BreakerOptions> = {}) {
  const states: string[] = [];
  const telemetry = startTelemetry({
    service: 'worker',
    version: '1',
    environment: 'dev',
    instanceId: 'i',
    tracing: false,
    metrics: true,
    logLevel: 'CRITICAL',
    logFormat: 'json',
  });
  const made = createBreaker({
    name: 'model:default',
    timeoutMs: 1_000,
    errorThresholdPercentage: 50,
    resetTimeoutMs: 5_000,
    volumeThreshold: 3,
    metrics: telemetry.metrics,
    log: silentLog,
    onTransition: (to) => void states.push(to),
    ...options,
  });
  breakers.push(made);
  const { metrics, metricsText } = telemetry;
  return { breaker: made, states, metrics, metricsText };
}

const answers = async () => 'answer';
const fails = () => Promise.reject(new Error('502'));

/** A call whose end a test decides. */
function held() {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  return { action: () => promise, answer: () => resolve('late'), fail: () => reject(new Error('late')) };
}

async function open(it: Breaker): Promise<void> {
  for (let i = 0; i < 3; i += 1) await expect(it.run(fails)).rejects.toThrow('502');
  expect(it.state).toBe('open');
}

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  for (const each of breakers.splice(0)) each.close();
  vi.useRealTimers();
});

describe('a closed breaker', () => {
  test('passes calls and their errors', async () => {
    const { breaker: it } = breaker();
    expect(await it.run(answers)).toBe('answer');
    await expect(it.run(fails)).rejects.toThrow('502');
    expect(it.state).toBe('closed');
  });

  test('bounds a call, aborts its signal and no other', async () => {
    const { breaker: it } = breaker();
    const signals: AbortSignal[] = [];
    const hangs = (signal: AbortSignal) => {
      signals.push(signal);
      return new Promise<string>(() => undefined);
    };
    const first = it.run(hangs);
    const refused = expect(first).rejects.toMatchObject({ code: 'TIMEOUT' });
    await vi.advanceTimersByTimeAsync(500);
    const second = it.run(hangs).catch(() => 'over');
    await vi.advanceTimersByTimeAsync(500);
    await refused;
    expect(signals.map((signal) => signal.aborted)).toEqual([true, false]);
    await vi.advanceTimersByTimeAsync(500);
    expect(await second).toBe('over');
  });

  test('leaves the signal of a call that has ended alone: its stream may go on', async () => {
    const { breaker: it } = breaker();
    let seen: AbortSignal | undefined;
    await it.run(async (signal) => {
      seen = signal;
    });
    await vi.advanceTimersByTimeAsync(10_000);
    expect(seen?.aborted).toBe(false);
  });

  test('does not open below its volume, nor for errors that do not count', async () => {
    const { breaker: it } = breaker({ counts: (error) => !(error instanceof RangeError) });
    for (let i = 0; i < 2; i += 1) await it.run(fails).catch(() => undefined);
    expect(it.state).toBe('closed');
    const { breaker: other } = breaker({ counts: (error) => !(error instanceof RangeError) });
    for (let i = 0; i < 20; i += 1)
      await other.run(() => Promise.reject(new RangeError('our own mistake'))).catch(() => undefined);
    expect(other.state).toBe('closed');
  });

  test('does not count a call that its caller aborted', async () => {
    const { breaker: it } = breaker();
    for (let i = 0; i < 20; i += 1)
      await it.run(() => Promise.reject(AbortSignal.abort().reason)).catch(() => undefined);
    expect(it.state).toBe('closed');
  });

  test('opens on timeouts as on errors', async () => {
    const { breaker: it } = breaker();
    const calls = [1, 2, 3].map(() => it.run(() => new Promise(() => undefined)).catch(() => undefined));
    await vi.advanceTimersByTimeAsync(1_000);
    await Promise.all(calls);
    expect(it.state).toBe('open');
  });
});

describe('an open breaker', () => {
  test('refuses without calling, and says when to come back', async () => {
    const { breaker: it } = breaker();
    await open(it);
    await vi.advanceTimersByTimeAsync(2_000);
    const action = vi.fn(answers);
    await expect(it.run(action)).rejects.toMatchObject({ code: 'BREAKER_OPEN', retryAfterMs: 3_000 });
    expect(action).not.toHaveBeenCalled();
  });

  test('answers with the fallback, which is told why', async () => {
    const { breaker: it } = breaker();
    const told: string[] = [];
    const fallback = (error: { code: string }) => {
      told.push(error.code);
      return 'fallback';
    };
    for (let i = 0; i < 3; i += 1) expect(await it.run(fails, fallback)).toBe('fallback');
    expect(await it.run(answers, fallback)).toBe('fallback');
    expect(told).toEqual(['INTERNAL_ERROR', 'INTERNAL_ERROR', 'INTERNAL_ERROR', 'BREAKER_OPEN']);
  });

  test('has no fallback for an error that does not count', async () => {
    const { breaker: it } = breaker({ counts: () => false });
    await expect(it.run(fails, () => 'fallback')).rejects.toThrow('502');
  });
});

describe('a half-open breaker', () => {
  test('lets exactly one call try, and closes when it succeeds', async () => {
    const { breaker: it, states } = breaker();
    await open(it);
    await vi.advanceTimersByTimeAsync(5_000);
    expect(it.state).toBe('half-open');
    const probe = held();
    const others = vi.fn(answers);
    const trying = it.run(probe.action);
    for (let i = 0; i < 20; i += 1)
      await expect(it.run(others)).rejects.toMatchObject({ code: 'BREAKER_OPEN' });
    expect(others).not.toHaveBeenCalled();
    probe.answer();
    expect(await trying).toBe('late');
    expect(await it.run(others)).toBe('answer');
    expect(states).toEqual(['open', 'half-open', 'closed']);
  });

  test('opens again when the probe fails, or is aborted and so shows nothing', async () => {
    const { breaker: it, states } = breaker();
    await open(it);
    for (const reason of [new Error('502'), fault('ABORTED', 'the client has gone')]) {
      await vi.advanceTimersByTimeAsync(5_000);
      await it.run(() => Promise.reject(reason)).catch(() => undefined);
      expect(it.state).toBe('open');
    }
    expect(states).toEqual(['open', 'half-open', 'open', 'half-open', 'open']);
  });

  test('is not closed by a call that began before it opened', async () => {
    // slow call begins → three fail, it opens → half-open → slow call ends well: no probe has tried yet.
    const { breaker: it } = breaker({ timeoutMs: 60_000 });
    const slow = held();
    const late = it.run(slow.action);
    for (let i = 0; i < 3; i += 1) await it.run(fails).catch(() => undefined);
    await vi.advanceTimersByTimeAsync(5_000);
    slow.answer();
    expect(await late).toBe('late');
    expect(it.state).toBe('half-open');
  });

  test('is not opened by a call that began before it opened, so that no second probe starts', async () => {
    // slow call begins → it opens → half-open, probe begins → slow call fails: with opossum alone it opens, its timer
    // ends, and a second probe starts beside the first.
    const { breaker: it } = breaker({ timeoutMs: 60_000 });
    const slow = held();
    const late = it.run(slow.action).catch(() => undefined);
    for (let i = 0; i < 3; i += 1) await it.run(fails).catch(() => undefined);
    await vi.advanceTimersByTimeAsync(5_000);
    const probe = held();
    const trying = it.run(probe.action);
    slow.fail();
    await late;
    expect(it.state).toBe('half-open');
    await vi.advanceTimersByTimeAsync(20_000);
    const second = vi.fn(answers);
    await expect(it.run(second)).rejects.toMatchObject({ code: 'BREAKER_OPEN' });
    expect(second).not.toHaveBeenCalled();
    probe.answer();
    await trying;
    expect(it.state).toBe('closed');
  });

  test('opens again when the probe never ends', async () => {
    const { breaker: it } = breaker();
    await open(it);
    await vi.advanceTimersByTimeAsync(5_000);
    const probe = it.run(() => new Promise(() => undefined)).catch(() => undefined);
    await vi.advanceTimersByTimeAsync(1_000);
    await probe;
    expect(it.state).toBe('open');
  });
});

test('its metrics carry its name', async () => {
  const { breaker: it, metricsText } = breaker();
  expect(await metricsText()).toContain('circuit_breaker_state{name="model:default",service="worker"} 0');
  await open(it);
  expect(await metricsText()).toContain('circuit_breaker_state{name="model:default",service="worker"} 2');
  await vi.advanceTimersByTimeAsync(5_000);
  const page = await metricsText();
  expect(page).toContain('circuit_breaker_state{name="model:default",service="worker"} 1');
  expect(page).toContain(
    'circuit_breaker_transitions_total{name="model:default",to="open",service="worker"} 1',
  );
  it.close();
  expect(await metricsText()).not.toContain('circuit_breaker_state{');
});

test('of several with one name the worst is shown: a healthy one does not hide it', async () => {
  const { breaker: ill, metrics, metricsText } = breaker();
  const { breaker: well } = breaker({ metrics });
  const shown = async () =>
    /circuit_breaker_state\{name="model:default"[^}]*\} (\d)/g.exec(await metricsText())?.[1];
  await open(ill);
  expect(well.state).toBe('closed');
  expect(await shown()).toBe('2');
  expect((await metricsText()).match(/^circuit_breaker_state\{/gm)).toHaveLength(1);
  ill.close();
  expect(await shown()).toBe('0');
  well.close();
  expect(await shown()).toBeUndefined();
});

describe('under concurrency', () => {
  test('a thousand calls at the moment of half-open are one probe', async () => {
    const { breaker: it } = breaker();
    await open(it);
    await vi.advanceTimersByTimeAsync(5_000);
    const probe = held();
    const calls = Array.from({ length: 1_000 }, () => it.run(probe.action).catch((error: unknown) => error));
    probe.answer();
    const ended = await Promise.all(calls);
    expect(ended.filter((each) => each === 'late')).toHaveLength(1);
    expect(ended.filter((each) => isFault(each, 'BREAKER_OPEN'))).toHaveLength(999);
    expect(it.state).toBe('closed');
  });

  test('what callers did wrong does not open it, whatever else goes on', async () => {
    const { breaker: it } = breaker({
      counts: (error) => !isFault(error, 'MODEL_REFUSED') && !isFault(error, 'ABORTED'),
    });
    for (let round = 0; round < 50; round += 1) {
      await it.run(() => Promise.reject(fault('MODEL_REFUSED', '400: no such model'))).catch(() => undefined);
      await it.run(() => Promise.reject(fault('ABORTED', 'the caller left'))).catch(() => undefined);
    }
    expect(it.state).toBe('closed');
    expect(await it.run(answers)).toBe('answer');
  });
});
