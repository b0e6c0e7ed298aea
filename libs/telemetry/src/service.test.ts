import { serviceSettings } from '@signalbox/config/service-settings';
import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { createLifecycle } from '@signalbox/lifecycle/lifecycle';
import { createBoard } from '@signalbox/readiness/board';
import { describe, expect, test } from 'vitest';
import { startCollector } from '../test/collector.ts';
import { superviseService } from './service.ts';
import { startTelemetry } from './telemetry.ts';

test('a service tells of its start and its stop, and the last scrape sees both', async () => {
  const collector = await startCollector();
  const lines: Record<string, unknown>[] = [];
  const settings = loadSettings(
    'gateway',
    serviceSettings,
    givenSources({ ENVIRONMENT: 'dev', MAX_POOL_SIZE: '5', OTEL_EXPORTER_OTLP_ENDPOINT: collector.url }),
  );
  const telemetry = startTelemetry({
    service: settings.serviceName,
    version: settings.serviceVersion,
    environment: settings.environment,
    instanceId: 'i',
    tracing: settings.tracingEnabled,
    metrics: settings.metricsEnabled,
    otlpEndpoint: settings.otlpEndpoint,
    logLevel: settings.logLevel,
    logFormat: 'json',
    logDestination: { write: (line) => void lines.push(JSON.parse(line)) },
  });
  const lifecycle = createLifecycle();
  const board = createBoard({ service: settings.serviceName });
  const service = superviseService({ lifecycle, telemetry, board, settings });
  expect(board.readiness().body).toMatchObject({ status: 'starting' });
  service.started({ port: 8010 });
  expect(board.readiness().body).toEqual({ status: 'ready' });

  let scraped = '';
  lifecycle.onStop({
    name: 'port',
    phase: 'health-port',
    run: async () => {
      expect(board.readiness().body).toMatchObject({ status: 'draining' });
      scraped = await telemetry.metricsText();
    },
  });
  lifecycle.onStop({
    name: 'turns',
    phase: 'work',
    timeoutMs: 30,
    run: () => new Promise(() => undefined),
  });
  await lifecycle.stop('SIGTERM');
  await collector.close();

  expect(lines.map((line) => line.event)).toEqual([
    'service.starting',
    'config.legacy_name',
    'config.validated',
    'service.started',
    'service.stopping',
    'shutdown.step',
    'shutdown.step',
    'shutdown.step',
    'shutdown.step',
    'service.stopped',
  ]);
  expect(lines[2]).toMatchObject({ settings: { PORT: { value: '8010', origin: 'default' } } });
  expect(lines[3]).toMatchObject({ port: 8010, startup_ms: expect.any(Number) });
  for (const name of ['service_startup_seconds_count', 'service_shutdown_seconds_count'])
    expect(scraped).toContain(`${name}{service="gateway"} 1`);
  expect(scraped).toMatch(/readiness_last_success_timestamp\{service="gateway"\} 1\d{9}/);
  expect(collector.spans.map((span) => span.name)).toEqual(['stop readiness', 'stop turns', 'shutdown']);
  const [readiness, turns, shutdown] = collector.spans;
  expect(shutdown?.attributes['shutdown.reason']).toBe('SIGTERM');
  expect(JSON.stringify(shutdown?.attributes['shutdown.overran'])).toContain('turns');
  expect(shutdown?.status.message).toBe('did not end in time: turns');
  expect(readiness?.attributes['shutdown.outcome']).toBe('done');
  expect(turns?.attributes['shutdown.outcome']).toBe('overran');
  expect([readiness, turns].map((span) => span?.parentSpanId)).toEqual([shutdown?.spanId, shutdown?.spanId]);
});

describe('FAIL_POINT', () => {
  const read = (ENVIRONMENT: string, FAIL_POINT: string) =>
    loadSettings('gateway', serviceSettings, givenSources({ ENVIRONMENT, FAIL_POINT }));

  test.each(['staging', 'prod'])(
    'is refused in %s: nobody ends a process there on purpose',
    (environment) => {
      expect(() => read(environment, 'accept.committed')).toThrow(
        expect.objectContaining({
          code: 'CONFIG_INVALID',
          errors: [
            {
              path: 'FAIL_POINT',
              message: `${environment} refuses a fail point: it ends the process on purpose`,
            },
          ],
        }),
      );
    },
  );

  test('that names no point keeps a service from starting', () => {
    const settings = read('dev', 'accept.comitted');
    const telemetry = startTelemetry({
      ...{ service: 'gateway', version: '1', environment: 'dev', instanceId: 'i' },
      ...{ tracing: false, metrics: true, logLevel: 'INFO', logFormat: 'json' },
      logDestination: { write: () => undefined },
    });
    const board = createBoard({ service: 'gateway' });
    expect(() => superviseService({ lifecycle: createLifecycle(), telemetry, board, settings })).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID' }),
    );
  });
});
