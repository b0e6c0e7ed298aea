import { fault } from '@signalbox/faults/fault';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Board, type BoardOptions, createBoard, type ProbeDetail } from './board.ts';

interface Line {
  readonly level: string;
  readonly event: string;
  readonly fields: Record<string, unknown>;
}

const boards: Board[] = [];

function board(options: Partial<BoardOptions> = {}) {
  const lines: Line[] = [];
  const write =
    (level: string) =>
    (event: string, fields: Record<string, unknown> = {}) =>
      void lines.push({ level, event, fields });
  const made = createBoard({
    service: 'gateway',
    version: '1.2.3',
    log: { info: write('info'), warning: write('warning') },
    ...options,
  });
  boards.push(made);
  return { board: made, lines, events: (event: string) => lines.filter((line) => line.event === event) };
}

/** A dependency whose state a test sets. */
function dependency() {
  const it = {
    state: 'up' as 'up' | 'down' | 'hanging' | 'deaf',
    detail: {} as ProbeDetail,
    runs: 0,
    aborted: 0,
    async probe(signal: AbortSignal): Promise<ProbeDetail | undefined> {
      it.runs += 1;
      if (it.state === 'down') throw fault('DATABASE_UNAVAILABLE', 'connect ECONNREFUSED 10.1.2.3:5432');
      if (it.state === 'hanging' || it.state === 'deaf')
        await new Promise((_, reject) =>
          signal.addEventListener('abort', () => {
            it.aborted += 1;
            if (it.state === 'hanging') reject(signal.reason);
          }),
        );
      return it.detail;
    },
  };
  return it;
}

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  for (const each of boards.splice(0)) each.stop();
  vi.useRealTimers();
});

const tick = (ms = 0) => vi.advanceTimersByTimeAsync(ms);

describe('/ready', () => {
  test('is starting, then ready, then draining for good', async () => {
    const { board: it } = board();
    expect(it.readiness()).toEqual({
      code: 503,
      body: { status: 'starting', reason: 'starting', checks: {} },
    });
    it.markStarted();
    expect(it.readiness()).toEqual({ code: 200, body: { status: 'ready' } });
    it.markDraining();
    it.markStarted();
    expect(it.readiness()).toMatchObject({ code: 503, body: { status: 'draining', reason: 'draining' } });
  });

  test('waits for the first result of each required check, not of an optional one', async () => {
    const { board: it } = board();
    const database = dependency();
    const model = dependency();
    model.state = 'hanging';
    it.add({ name: 'database', required: true, probe: database.probe });
    it.add({ name: 'model', required: false, probe: model.probe });
    it.markStarted();
    expect(it.readiness()).toMatchObject({ code: 503, body: { status: 'starting', reason: 'database' } });
    it.start();
    await tick();
    expect(it.readiness().code).toBe(200);
  });

  test('turns with a required check, and back, and says each turn once', async () => {
    const { board: it, events } = board();
    const database = dependency();
    it.add({ name: 'database', required: true, intervalMs: 1_000, probe: database.probe });
    it.start();
    it.markStarted();
    await tick();
    database.state = 'down';
    await tick(5_000);
    const { code, body } = it.readiness();
    expect(code).toBe(503);
    expect(body).toMatchObject({
      status: 'unready',
      reason: 'database',
      checks: { database: { status: 'down', reason: 'DATABASE_UNAVAILABLE' } },
    });
    database.state = 'up';
    await tick(1_000);
    expect(it.readiness().code).toBe(200);
    expect(events('check.changed').map(({ level, fields }) => [level, fields.to])).toEqual([
      ['warning', 'down'],
      ['info', 'ok'],
    ]);
    expect(events('readiness.changed').map(({ level, fields }) => [level, fields.status])).toEqual([
      ['info', 'ready'],
      ['warning', 'unready'],
      ['info', 'ready'],
    ]);
  });

  test('shows codes, never the message of an error', async () => {
    const { board: it } = board();
    const database = dependency();
    database.state = 'down';
    it.add({ name: 'database', required: true, probe: database.probe });
    it.start();
    await tick();
    expect(JSON.stringify([it.readiness().body, it.health().body])).not.toContain('10.1.2.3');
  });

  test.each([
    [fault('SCHEMA_OUTDATED', 'migration 0012 is missing'), 'schema'],
    [fault('WRONG_CLUSTER', 'another cluster'), 'cluster'],
    [fault('KAFKA_UNAVAILABLE', 'no member', { details: { reason: 'membership' } }), 'membership'],
    [new Error('anything'), 'database'],
  ])('tells the reason a probe names: %s', async (error, reason) => {
    const { board: it } = board();
    it.add({ name: 'database', required: true, probe: () => Promise.reject(error) });
    it.start();
    it.markStarted();
    await tick();
    expect(it.readiness().body).toMatchObject({ status: 'unready', reason });
  });

  test('stays ready without an optional dependency', async () => {
    const { board: it } = board();
    const model = dependency();
    model.state = 'down';
    it.add({ name: 'model', required: false, probe: model.probe });
    it.start();
    it.markStarted();
    await tick();
    expect(it.readiness().code).toBe(200);
    expect(it.health()).toMatchObject({ code: 200, body: { status: 'degraded' } });
    expect(it.healthz().code).toBe(200);
  });

  test('gives a gateway its grace without Kafka, counted anew after each success', async () => {
    const { board: it } = board({ graceMs: 60_000 });
    const kafka = dependency();
    it.add({ name: 'kafka', required: 'after-grace', intervalMs: 1_000, probe: kafka.probe });
    it.start();
    it.markStarted();
    await tick();
    kafka.state = 'down';
    await tick(59_000);
    expect(it.readiness().code).toBe(200);
    expect(it.health()).toMatchObject({ code: 200, body: { status: 'degraded' } });
    kafka.state = 'up';
    await tick(1_000);
    kafka.state = 'down';
    await tick(60_000);
    expect(it.readiness().code).toBe(200);
    await tick(2_000);
    expect(it.readiness()).toMatchObject({ code: 503, body: { status: 'unready', reason: 'kafka' } });
    expect(it.health()).toMatchObject({ code: 503, body: { status: 'down' } });
    expect(it.healthz().code).toBe(503);
  });
});

describe('a probe', () => {
  test('never runs inside a request', async () => {
    const { board: it } = board();
    const database = dependency();
    it.add({ name: 'database', required: true, intervalMs: 10_000, probe: database.probe });
    it.start();
    await tick();
    for (let i = 0; i < 1_000; i += 1) {
      it.readiness();
      it.health();
      it.healthz();
    }
    expect(database.runs).toBe(1);
  });

  test('that hangs is bounded, aborted, and found good again when it is', async () => {
    const { board: it } = board();
    const database = dependency();
    database.state = 'hanging';
    it.add({ name: 'database', required: true, intervalMs: 1_000, timeoutMs: 500, probe: database.probe });
    it.start();
    it.markStarted();
    await tick(501);
    expect(database.aborted).toBe(1);
    expect(it.readiness().body).toMatchObject({
      reason: 'database',
      checks: { database: { status: 'down', reason: 'TIMEOUT' } },
    });
    database.state = 'up';
    await tick(1_000);
    expect(it.readiness().code).toBe(200);
  });

  test('that hangs and does not heed its signal is tried ever more rarely', async () => {
    const { board: it } = board();
    const database = dependency();
    database.state = 'deaf';
    it.add({ name: 'database', required: true, intervalMs: 1_000, timeoutMs: 500, probe: database.probe });
    it.start();
    await tick(600_000);
    expect(database.runs).toBeLessThan(26);
    database.state = 'up';
    it.markStarted();
    await tick(30_000);
    expect(it.readiness().code).toBe(200);
  });

  test('that was too slow runs again soon after it has come back, not when the longest wait is over', async () => {
    const { board: it } = board();
    let runs = 0;
    const slowOnce = async () => {
      runs += 1;
      if (runs === 1) await new Promise((resolve) => setTimeout(resolve, 700));
    };
    it.add({ name: 'database', required: true, intervalMs: 10_000, timeoutMs: 500, probe: slowOnce });
    it.start();
    it.markStarted();
    await tick(600);
    expect(it.readiness().code).toBe(503);
    await tick(1_200);
    expect(it.readiness().code).toBe(200);
  });

  test('is asked again within a second while it is down, whatever its interval', async () => {
    const { board: it } = board();
    const database = dependency();
    database.state = 'down';
    it.add({ name: 'database', required: true, intervalMs: 30_000, probe: database.probe });
    it.start();
    it.markStarted();
    await tick(10_000);
    expect(database.runs).toBe(11);
    database.state = 'up';
    await tick(1_000);
    expect(it.readiness().code).toBe(200);
  });

  test('does not run any more when the board has stopped', async () => {
    const { board: it } = board();
    const database = dependency();
    it.add({ name: 'database', required: true, intervalMs: 1_000, probe: database.probe });
    it.start();
    await tick(1_000);
    const { runs } = database;
    it.stop();
    await tick(10_000);
    expect(database.runs).toBe(runs);
    expect(vi.getTimerCount()).toBe(0);
  });

  test('may be added while the board runs, once a name', async () => {
    const { board: it } = board();
    it.start();
    const redis = dependency();
    it.add({ name: 'redis', required: false, probe: redis.probe });
    await tick();
    expect(redis.runs).toBe(1);
    expect(() => it.add({ name: 'redis', required: false, probe: redis.probe })).toThrow('redis');
  });
});

describe('/health', () => {
  test('shows every check with latency, age and what its probe or owner says', async () => {
    const { board: it } = board();
    const database = dependency();
    database.detail = { migrations: 12 };
    it.add({ name: 'database', required: true, intervalMs: 60_000, probe: database.probe });
    it.report('worker_pool', {
      status: 'ok',
      size: 8,
      busy: 2,
      queued: 0,
      completed_total: 5,
      failed_total: 0,
    });
    it.start();
    await tick(1_500);
    expect(it.health()).toEqual({
      code: 200,
      body: {
        status: 'ok',
        service: 'gateway',
        version: '1.2.3',
        uptime_seconds: 1.5,
        checks: {
          database: { status: 'ok', migrations: 12, latency_ms: 0, age_ms: 1_500 },
          worker_pool: {
            status: 'ok',
            size: 8,
            busy: 2,
            queued: 0,
            completed_total: 5,
            failed_total: 0,
            latency_ms: 0,
            age_ms: 1_500,
          },
        },
      },
    });
  });

  test('is bad with a required report, degraded with another', async () => {
    const { board: it } = board();
    it.markStarted();
    it.report('breakers', { status: 'down', reason: 'model:default' });
    expect(it.health()).toMatchObject({ code: 200, body: { status: 'degraded' } });
    it.report('consumer', { status: 'down', reason: 'stalled' }, true);
    expect(it.health()).toMatchObject({ code: 503, body: { status: 'down' } });
    expect(it.readiness().body).toMatchObject({ status: 'unready', reason: 'stalled' });
  });

  test('/healthz is 503 while a required check has no result', async () => {
    const { board: it } = board();
    it.add({ name: 'database', required: true, probe: dependency().probe });
    expect(it.health().code).toBe(200);
    expect(it.healthz()).toMatchObject({ code: 503, body: { checks: { database: { status: 'unknown' } } } });
  });
});

describe('readiness_last_success_timestamp', () => {
  test('is when the service was last ready', async () => {
    const { board: it } = board();
    const database = dependency();
    it.add({ name: 'database', required: true, intervalMs: 1_000, probe: database.probe });
    expect(it.lastSuccessTimestamp()).toBeUndefined();
    it.start();
    it.markStarted();
    await tick(3_000);
    const at = it.lastSuccessTimestamp();
    expect(at).toBeCloseTo(Date.now() / 1_000, 1);
    database.state = 'down';
    await tick(10_000);
    expect(it.lastSuccessTimestamp()).toBe(at);
  });
});
