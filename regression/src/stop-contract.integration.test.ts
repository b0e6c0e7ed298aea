import { stopPhases } from '@signalbox/lifecycle/lifecycle';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { testInfra } from '@signalbox/testkit/infra';
import {
  type LaunchedService,
  type LogRecord,
  launchService,
  metricIn,
  type SpawnedService,
  type SpawnOptions,
  spawnService,
} from '@signalbox/testkit/service';
import { type SpanCollector, startSpanCollector } from '@signalbox/testkit/span-collector';
import { type OwnTopics, ownTopics } from '@signalbox/testkit/topics';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { StopFault } from '../test/misbehaving-lifecycle.ts';
import type { ServiceName } from './replica.ts';

/** The steps of each service, in the order in which they must end; steps of one phase may end in any order. */
const stepsOf: Readonly<Record<ServiceName, readonly string[]>> = {
  gateway: [
    'readiness',
    ...['http requests', 'consumer conversation.outbound', 'consumer tool.catalog', 'loop stream boot'],
    ...['http streams', 'outbox', 'redis', 'kafka', 'database', 'telemetry', 'http server'],
  ],
  'conversation-worker': [
    'readiness',
    ...['consumer conversation.inbound', 'consumer tool.results', 'turns', 'loop waits'],
    ...['http streams', 'outbox', 'models', 'kafka', 'database', 'telemetry', 'http server'],
  ],
  'tool-executor': [
    'readiness',
    ...['consumer tool.requests', 'worker', 'loop catalog'],
    ...['http streams', 'outbox', 'sandbox', 'kafka', 'database', 'telemetry', 'http server'],
  ],
  'outbox-sync': [
    'readiness',
    ...['http requests', 'loop slot lease', 'loop relay', 'refused rows'],
    ...['http streams', 'outbox', 'kafka', 'database', 'telemetry', 'http server'],
  ],
  'memory-sync': [
    'readiness',
    ...['http requests', 'pushes', 'consumer memory.writes', 'consumer jobs.commands'],
    ...['http streams', 'outbox', 'memory backend', 'kafka', 'database', 'telemetry', 'http server'],
  ],
  'memory-replicator': [
    'readiness',
    ...['http requests', 'consumer memory.wal', 'consumer memory.recall.requests', 'consumer jobs.commands'],
    ...['http streams', 'outbox', 'kafka', 'database', 'telemetry', 'http server'],
  ],
  'delegation-gateway': [
    'readiness',
    ...['http requests', 'consumer delegation.updates', 'consumer jobs.commands', 'loop task events'],
    ...['http streams', 'outbox', 'kafka', 'redis', 'database', 'telemetry', 'http server'],
  ],
  'delegation-worker': [
    'readiness',
    ...['http requests', 'worker', 'webhooks', 'consumer delegation.tasks', 'consumer turn.results'],
    ...['loop deadlines', 'outbox', 'breakers', 'kafka', 'database', 'telemetry', 'http server'],
  ],
  'job-worker': [
    'readiness',
    ...['http requests', 'consumer jobs.commands', 'loop jobs', 'consumer jobs.results'],
    ...['http streams', 'outbox', 'kafka', 'queue connections', 'database', 'telemetry', 'http server'],
  ],
};
/** The paths that are the lifecycle's alone, whoever registered steps with it, are walked with these. */
const walked: readonly ServiceName[] = ['gateway', 'conversation-worker', 'tool-executor', 'outbox-sync'];
const services = Object.keys(stepsOf).filter((name): name is ServiceName => name in stepsOf);

// A start takes a second of the processor; on a busy machine that is many.
vi.setConfig({ testTimeout: 120_000 });

let database: TestDatabase;
let topics: OwnTopics;
let collector: SpanCollector;

beforeAll(async () => {
  topics = ownTopics();
  [database, collector] = await Promise.all([createTestDatabase(), startSpanCollector(), topics.create()]);
});
afterAll(async () => {
  await Promise.all([database?.drop(), topics?.drop(), collector?.close()]);
});

function settings(): Record<string, string> {
  const infra = testInfra();
  return {
    KAFKA_BOOTSTRAP_SERVERS: infra.kafka,
    KAFKA_TOPIC_PREFIX: topics.prefix,
    KAFKA_GROUP_ID: topics.prefix,
    DATABASE_URL: database.url,
    DATABASE_POOL_SIZE: '2',
    DATABASE_MAX_OVERFLOW: '2',
    REDIS_URL: infra.redisUrl,
    REDIS_KEY_PREFIX: topics.prefix,
    MODEL_BASE_URL: 'http://127.0.0.1:9/v1',
    TOOL_EXECUTOR_WARM_PROCESSES: '1',
  };
}

async function start(
  service: ServiceName,
  more: Record<string, string> = {},
  options: SpawnOptions = {},
): Promise<SpawnedService> {
  const started = await spawnService(service, { ...settings(), ...more }, { ...options, timeoutMs: 60_000 });
  await started.ready(60_000);
  return started;
}

function withFault(service: ServiceName, fault: StopFault): SpawnOptions {
  return {
    entry: new URL('../test/service-with-stop-faults.ts', import.meta.url),
    args: [service, fault],
  };
}

const recordsOf = ({ logs }: LaunchedService, event: string): LogRecord[] =>
  logs.filter((record) => record.event === event);
const stepOf = (service: LaunchedService, step: string) =>
  recordsOf(service, 'shutdown.step').find((record) => record.step === step);

interface Reading {
  readonly path: string;
  /** performance.now() before it was asked. */
  readonly askedAt: number;
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
}

/** Asks for the paths again and again, one after the other, until nobody answers any more. */
async function watchUntilGone(url: string, paths: readonly string[]): Promise<readonly Reading[]> {
  const readings: Reading[] = [];
  for (;;) {
    for (const path of paths) {
      const askedAt = performance.now();
      try {
        const response = await fetch(`${url}${path}`);
        const { status, headers } = response;
        readings.push({ path, askedAt, status, headers, text: await response.text() });
      } catch {
        return readings;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe.each(services)('%s', (service) => {
  test('drains: unready at once, serves on, refuses, ends step by step, is scraped once more, exits 0', async () => {
    await using running = await start(service, {
      DRAIN_DELAY_MS: '1200',
      LAST_SCRAPE_MS: '5000',
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
    });
    const watching = watchUntilGone(running.url, ['/ready', '/nothing', '/metrics', '/live']);
    const askedAt = performance.now();
    running.kill('SIGTERM');
    expect(await running.exited).toEqual({ code: 0, signal: null });
    const readings = await watching;
    const of = (path: string) => readings.filter((reading) => reading.path === path);

    // /ready turns at once and stays
    const ready = of('/ready').filter(({ askedAt: at }) => at > askedAt);
    const firstDraining = ready.findIndex(({ status }) => status === 503);
    expect(ready[firstDraining]?.askedAt).toBeLessThan(askedAt + 600);
    for (const { status, text } of ready.slice(firstDraining)) {
      expect(status).toBe(503);
      expect(JSON.parse(text)).toMatchObject({ status: 'draining', reason: 'draining' });
    }

    // requests are served for the delay, with the hint to close; then they are refused
    const served = of('/nothing').filter(({ askedAt: at }) => at > (ready[firstDraining]?.askedAt ?? 0));
    const refusedFrom = served.findIndex(({ status }) => status === 503);
    expect(refusedFrom).toBeGreaterThan(0);
    expect(served[refusedFrom]?.askedAt).toBeGreaterThan(askedAt + 1_000);
    for (const { status, headers } of served.slice(0, refusedFrom)) {
      expect(status).toBe(404);
      expect(headers.get('connection')).toBe('close');
    }
    for (const { status, headers, text } of served.slice(refusedFrom)) {
      expect(status).toBe(503);
      expect(headers.get('retry-after')).toBe('1');
      expect(headers.get('connection')).toBe('close');
      expect(JSON.parse(text)).toMatchObject({ error_code: 'DRAINING' });
    }

    // every step has its record, in the order of the phases, all done
    const stop = running.logs.slice(running.logs.findIndex(({ event }) => event === 'service.stopping'));
    expect(stop[0]).toMatchObject({ reason: 'SIGTERM', drain_delay_ms: 1200 });
    const steps = stop.filter(({ event }) => event === 'shutdown.step');
    expect(steps.map(({ step }) => step)).toEqual(expect.arrayContaining([...stepsOf[service]]));
    for (const step of steps) expect(step).toMatchObject({ outcome: 'done', level: 'INFO' });
    const phases = steps.map(({ phase }) => stopPhases.map(String).indexOf(String(phase)));
    expect(phases).toEqual([...phases].sort((a, b) => a - b));
    expect(steps.at(-1)).toMatchObject({ step: 'http server', phase: 'health-port' });
    expect(running.logs.at(-1)).toMatchObject({
      ...{ event: 'service.stopped', outcome: 'drained', overran: [], failed: [] },
    });

    // the port was the last to close: how long the stop took was scraped from it
    const last = of('/metrics').at(-1)?.text ?? '';
    expect(metricIn(last, 'service_shutdown_seconds_count', { service })).toBe(1);
    expect(metricIn(last, 'service_shutdown_seconds_sum', { service })).toBeGreaterThan(1.2);
    for (const { status } of of('/live')) expect(status).toBe(200);

    // the trace shows the stop and each step in it
    const shutdown = await collector.find((span) => span.name === 'shutdown' && span.service === service);
    expect(shutdown.attributes).toMatchObject({
      'shutdown.reason': 'SIGTERM',
      'shutdown.outcome': 'drained',
    });
    const children = collector.trace(shutdown.traceId).filter((span) => span !== shutdown);
    for (const child of children) expect(child.parentSpanId).toBe(shutdown.spanId);
    expect(children.map((span) => span.attributes['shutdown.step'])).toEqual(
      expect.arrayContaining(
        stepsOf[service].filter((step) => step !== 'telemetry' && step !== 'http server'),
      ),
    );
  });

  test('exits 64 on bad settings, and tells all of them at once', async () => {
    const refused = launchService(service, {
      ...settings(),
      ...{ PORT: 'x', LOG_LEVEL: 'loud', DATABASE_URL: 'nowhere' },
    });
    const { code } = await waitFor(
      () => refused.exit(),
      (exit) => exit !== undefined,
    );
    expect(code).toBe(64);
    for (const name of ['PORT', 'LOG_LEVEL', 'DATABASE_URL']) {
      expect(
        refused.noise.some((line) => line.includes(`${name}: `)),
        name,
      ).toBe(true);
      expect(JSON.stringify(recordsOf(refused, 'config.invalid')[0]?.errors)).toContain(name);
    }
  });
});

describe.each(walked)('%s', (service) => {
  test('exits 75 at once at a second signal, and names what ran', async () => {
    const second = service === 'gateway' || service === 'tool-executor' ? 'SIGTERM' : 'SIGINT';
    await using running = await start(service, {}, withFault(service, 'faulty steps'));
    running.kill('SIGTERM');
    await running.log('shutdown.step', ({ step }) => step === 'readiness');
    const askedAt = performance.now();
    running.kill(second);
    expect(await running.exited).toEqual({ code: 75, signal: null });
    expect(performance.now() - askedAt).toBeLessThan(1_000);
    expect(running.logs.at(-1)).toMatchObject({
      ...{ event: 'service.forced', level: 'CRITICAL', reason: `${second} while stopping` },
      overran: expect.arrayContaining(['hangs']),
    });
  });

  test('goes the same way when a main loop ends by itself, and exits 70', async () => {
    await using running = await start(service, {}, withFault(service, 'ending loop'));
    running.kill('SIGUSR2');
    expect(await running.exited).toEqual({ code: 70, signal: null });
    expect(recordsOf(running, 'service.loop_ended')).toHaveLength(1);
    for (const step of stepsOf[service])
      expect(stepOf(running, step), step).toMatchObject({ outcome: 'done' });
    expect(running.logs.at(-1)).toMatchObject({ event: 'service.stopped', outcome: 'drained' });
  });
});

// All at once: each takes its whole bound.
test('every service names the step that failed and the one that hung, runs all others, and exits 75 in time', async () => {
  await Promise.all(
    services.map(async (service) => {
      await using running = await start(
        service,
        { SHUTDOWN_TIMEOUT_MS: '4000', OTEL_EXPORTER_OTLP_ENDPOINT: collector.url },
        withFault(service, 'faulty steps'),
      );
      const { code, ms } = await running.stop(10_000);
      expect(code).toBe(75);
      expect(ms).toBeLessThan(5_000);
      expect(stepOf(running, 'fails')).toMatchObject({ outcome: 'failed', level: 'ERROR' });
      expect(stepOf(running, 'hangs')).toMatchObject({ outcome: 'forced', level: 'ERROR' });
      for (const step of stepsOf[service]) expect(stepOf(running, step), step).toBeDefined();
      expect(running.logs.at(-1)).toMatchObject({
        ...{ event: 'service.stopped', level: 'ERROR', outcome: 'forced', failed: ['fails'] },
        overran: expect.arrayContaining(['hangs']),
      });
      const hung = await collector.find(
        (span) =>
          span.name === 'shutdown' &&
          span.service === service &&
          String(span.attributes['shutdown.overran']).includes('hangs'),
      );
      expect(hung.status).toBe(2);
    }),
  );
});
