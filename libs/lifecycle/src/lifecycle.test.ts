import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { createLifecycle, type LifecycleOptions, type StopReport } from './lifecycle.ts';
import { stopPhases } from './stop-sequence.ts';

interface Line {
  readonly level: string;
  readonly event: string;
  readonly fields: Record<string, unknown>;
}

function recordingLog() {
  const lines: Line[] = [];
  const write =
    (level: string) =>
    (event: string, fields: Record<string, unknown> = {}) =>
      void lines.push({ level, event, fields });
  return { lines, log: { info: write('info'), error: write('error'), critical: write('critical') } };
}

function configured(options: Partial<LifecycleOptions> = {}) {
  const lifecycle = createLifecycle();
  const { lines, log } = recordingLog();
  lifecycle.configure({ drainDelayMs: 0, stopTimeoutMs: 10_000, log, ...options });
  const events = (event: string) => lines.filter((line) => line.event === event);
  return { lifecycle, lines, events };
}

const never = () => new Promise<void>(() => undefined);

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

describe('a stop', () => {
  test('runs the phases in order, the steps of one together, and logs each', async () => {
    const { lifecycle, lines, events } = configured();
    const ran: string[] = [];
    for (const phase of [...stopPhases].reverse()) {
      lifecycle.onStop({ name: `${phase} a`, phase, run: () => void ran.push(`${phase} a`) });
      lifecycle.onStop({ name: `${phase} b`, phase, run: async () => void ran.push(`${phase} b`) });
    }
    await lifecycle.stop('SIGTERM');

    expect(ran).toEqual(stopPhases.flatMap((phase) => [`${phase} a`, `${phase} b`]));
    expect(lines.at(0)).toMatchObject({ event: 'service.stopping', fields: { reason: 'SIGTERM' } });
    expect(events('shutdown.step')).toHaveLength(20);
    expect(lines.at(-1)).toMatchObject({
      level: 'info',
      event: 'service.stopped',
      fields: { outcome: 'drained', overran: [], failed: [] },
    });
  });

  test('is one, however often it is asked for', async () => {
    const { lifecycle, events } = configured();
    let runs = 0;
    lifecycle.onStop({
      name: 'asks again',
      phase: 'work',
      run: () => {
        runs += 1;
        void lifecycle.stop('again');
      },
    });
    await Promise.all([lifecycle.stop('SIGTERM'), lifecycle.stop('SIGINT')]);
    expect(runs).toBe(1);
    expect(events('service.stopping')).toHaveLength(1);
  });

  test('serves on for the drain delay between readiness and intake', async () => {
    const { lifecycle } = configured({ drainDelayMs: 5_000 });
    const ran: string[] = [];
    lifecycle.onStop({ name: 'board', phase: 'readiness', run: () => void ran.push('board') });
    lifecycle.onStop({ name: 'consumer', phase: 'intake', run: () => void ran.push('consumer') });
    const stopped = lifecycle.stop('SIGTERM');
    await vi.advanceTimersByTimeAsync(4_999);
    expect(lifecycle.stopEvent.aborted).toBe(true);
    expect(ran).toEqual(['board']);
    await vi.advanceTimersByTimeAsync(1);
    expect(ran).toEqual(['board', 'consumer']);
    await stopped;
  });

  test('names a step that fails or overruns, and runs the others still', async () => {
    const { lifecycle, lines, events } = configured();
    const ran: string[] = [];
    let gaveUp = false;
    lifecycle.onStop({ name: 'throws at once', phase: 'intake', run: () => Promise.reject(new Error('no')) });
    lifecycle.onStop({
      name: 'throws before it is async',
      phase: 'intake',
      run: () => {
        throw new Error('no');
      },
    });
    lifecycle.onStop({
      name: 'hangs',
      phase: 'work',
      timeoutMs: 1_000,
      run: (signal) => {
        signal.addEventListener('abort', () => {
          gaveUp = true;
        });
        return never();
      },
    });
    lifecycle.onStop({ name: 'neighbour', phase: 'work', run: () => void ran.push('neighbour') });
    lifecycle.onStop({ name: 'pool', phase: 'pools', run: () => void ran.push('pool') });
    const stopped = lifecycle.stop('SIGTERM');
    await vi.advanceTimersByTimeAsync(1_000);
    await stopped;

    expect(ran).toEqual(['neighbour', 'pool']);
    expect(gaveUp).toBe(true);
    const outcomes = Object.fromEntries(
      events('shutdown.step').map(({ fields }) => [fields.step, fields.outcome]),
    );
    expect(outcomes).toEqual({
      'throws at once': 'failed',
      'throws before it is async': 'failed',
      hangs: 'overran',
      neighbour: 'done',
      pool: 'done',
    });
    expect(lines.at(-1)).toMatchObject({
      level: 'error',
      event: 'service.stopped',
      fields: { outcome: 'drained', overran: ['hangs'] },
    });
    expect(lines.at(-1)?.fields.failed).toEqual(
      expect.arrayContaining(['throws at once', 'throws before it is async']),
    );
  });

  test('cuts off what would leave no time to the phases behind it, and is forced then', async () => {
    const { lifecycle, lines, events } = configured({ stopTimeoutMs: 10_000 });
    const ran: string[] = [];
    lifecycle.onStop({ name: 'turns', phase: 'work', timeoutMs: 60_000, run: never });
    lifecycle.onStop({ name: 'producer', phase: 'producers', run: () => void ran.push('producer') });
    lifecycle.onStop({ name: 'spans', phase: 'telemetry', run: () => void ran.push('spans') });
    const stopped = lifecycle.stop('SIGTERM');
    // Two phases with steps are behind it, each keeps 500 ms.
    await vi.advanceTimersByTimeAsync(9_000);
    await stopped;
    expect(ran).toEqual(['producer', 'spans']);
    expect(await lifecycle.over).toMatchObject({ outcome: 'forced', overran: ['turns'] });
    expect(events('shutdown.step')[0]?.fields).toMatchObject({ step: 'turns', outcome: 'forced' });
    expect(lines.at(-1)).toMatchObject({
      level: 'error',
      event: 'service.stopped',
      fields: { outcome: 'forced', overran: ['turns'] },
    });
  });

  test('that is forced while it waits for load balancers says so', async () => {
    const { lifecycle } = configured({ drainDelayMs: 60_000, stopTimeoutMs: 1_000 });
    void lifecycle.stop('SIGTERM');
    await vi.advanceTimersByTimeAsync(500);
    expect([...lifecycle.running]).toEqual(['drain delay']);
    await vi.advanceTimersByTimeAsync(500);
    expect(await lifecycle.over).toMatchObject({ outcome: 'forced', overran: ['drain delay'] });
  });

  test('is over when its bound has passed, and says what it left behind', async () => {
    const { lifecycle } = configured({ stopTimeoutMs: 1_000, onStopped: never });
    const stopped = lifecycle.stop('SIGTERM');
    await vi.advanceTimersByTimeAsync(1_000);
    await stopped;
    expect(await lifecycle.over).toMatchObject({
      outcome: 'forced',
      durationMs: 1_000,
      overran: ['on_stopped'],
    });
  });

  test('runs a step that is registered while it is under way', async () => {
    const { lifecycle } = configured();
    const ran: string[] = [];
    lifecycle.onStop({
      name: 'consumer',
      phase: 'work',
      run: () => {
        // Main was still starting: it opens a pool after the phases of intake and work have begun.
        lifecycle.onStop({ name: 'late intake', phase: 'intake', run: () => void ran.push('late intake') });
        lifecycle.onStop({ name: 'late pool', phase: 'pools', run: () => void ran.push('late pool') });
      },
    });
    await lifecycle.stop('SIGTERM');
    expect(ran).toEqual(['late intake', 'late pool']);
  });

  test('is wrapped by main up to the pools, and tells it the end before the health port closes', async () => {
    const ran: string[] = [];
    let seen: StopReport | undefined;
    const { lifecycle } = configured({
      aroundStop: async (run) => {
        ran.push('span begins');
        const result = await run();
        ran.push('span ends');
        return result;
      },
      onStopped: (report) => {
        ran.push('observed');
        seen = report;
      },
    });
    for (const phase of ['pools', 'telemetry', 'health-port'] as const)
      lifecycle.onStop({ name: phase, phase, run: () => void ran.push(phase) });
    await lifecycle.stop('SIGTERM');
    expect(ran).toEqual(['span begins', 'pools', 'span ends', 'telemetry', 'observed', 'health-port']);
    expect(seen?.steps.map((step) => step.name)).toEqual(['pools', 'telemetry']);
  });

  test('goes on when what main hung in throws', async () => {
    const ran: string[] = [];
    const { lifecycle, events } = configured({
      aroundStop: () => Promise.reject(new Error('no span')),
      onStopped: () => {
        throw new Error('no metric');
      },
      onStep: () => {
        throw new Error('no child span');
      },
    });
    lifecycle.onStop({ name: 'pool', phase: 'pools', run: () => void ran.push('pool') });
    lifecycle.onStop({ name: 'port', phase: 'health-port', run: () => void ran.push('port') });
    await lifecycle.stop('SIGTERM');
    expect(ran).toEqual(['pool', 'port']);
    expect(events('shutdown.hook_failed').map(({ fields }) => fields.hook)).toEqual([
      'around_stop',
      'on_step',
      'on_stopped',
      'on_step',
    ]);
  });
});

describe('a background loop', () => {
  test('is cancelled when the drain delay is over, in the middle of its wait, and waited for', async () => {
    const { lifecycle } = configured({ drainDelayMs: 2_000 });
    const ran: string[] = [];
    lifecycle.background('sweep', async (signal) => {
      while (!signal.aborted) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, 3_600_000);
          signal.addEventListener('abort', () => {
            clearTimeout(timer);
            resolve();
          });
        });
        ran.push(signal.aborted ? 'cancelled' : 'swept');
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
      ran.push('cleaned up');
    });
    lifecycle.onStop({ name: 'pool', phase: 'pools', run: () => void ran.push('pool') });
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(ran).toEqual(['swept']);

    const stopped = lifecycle.stop('SIGTERM');
    await vi.advanceTimersByTimeAsync(1_999);
    expect(ran).toEqual(['swept']);
    await vi.advanceTimersByTimeAsync(51);
    await stopped;
    expect(ran).toEqual(['swept', 'cancelled', 'cleaned up', 'pool']);
    expect(lifecycle.state).toEqual({ name: 'stopping', failed: false });
  });

  test('starts the stop when it ends by itself', async () => {
    const { lifecycle, events } = configured();
    lifecycle.background('consumer', async () => undefined);
    expect(await lifecycle.over).toMatchObject({ reason: 'consumer ended', outcome: 'drained' });
    expect(events('service.loop_ended')).toHaveLength(1);
    expect(lifecycle.state.failed).toBe(true);
  });

  test('starts the stop when it throws', async () => {
    const { lifecycle, events } = configured();
    lifecycle.background('consumer', () => Promise.reject(new Error('broken')));
    expect(await lifecycle.over).toMatchObject({ reason: 'consumer failed', outcome: 'drained' });
    expect(events('service.loop_failed')[0]?.fields.error).toMatchObject({ message: 'broken' });
    expect(lifecycle.state.failed).toBe(true);
  });

  test('may answer its abort by throwing', async () => {
    const { lifecycle, lines } = configured();
    lifecycle.background('consumer', async (signal) => {
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
      signal.throwIfAborted();
    });
    await lifecycle.stop('SIGTERM');
    expect(lifecycle.state.failed).toBe(false);
    expect(lines.filter((line) => line.level !== 'info')).toEqual([]);
  });

  test('that does not end is bounded by the whole stop', async () => {
    const { lifecycle } = configured({ stopTimeoutMs: 1_000 });
    lifecycle.background('deaf', never);
    void lifecycle.stop('SIGTERM');
    await vi.advanceTimersByTimeAsync(1_000);
    expect(await lifecycle.over).toMatchObject({ overran: ['loop deaf'] });
  });

  test('does not start any more once a stop is under way', async () => {
    const { lifecycle } = configured();
    const loop = vi.fn(never);
    const stopped = lifecycle.stop('SIGTERM');
    lifecycle.background('late', loop);
    await stopped;
    expect(loop).not.toHaveBeenCalled();
  });
});
