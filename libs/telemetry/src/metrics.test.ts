import { describe, expect, test } from 'vitest';
import { createMetrics, secondsBounds } from './metrics.ts';
import { startTelemetry } from './telemetry.ts';

const series = (text: string) => text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));

describe('/metrics', () => {
  test('has names verbatim, help, bounds in seconds, and the service on every series', async () => {
    const { metrics, text } = createMetrics('gateway', true);
    metrics.counter('turns_total', { help: 'Turns.', labels: ['outcome'] }).add(2, { outcome: 'stop' });
    metrics
      .histogram('turn_duration_seconds', { help: 'Length of a turn.' })
      .record(0.003, { outcome: 'stop' });
    metrics.gauge('turns_active', { help: 'Turns now.' }, () => 7);
    metrics.gauge('work_waiting', { help: 'Rows.', labels: ['queue'] }, () => [
      { value: 1, labels: { queue: 'turns' } },
      { value: 2, labels: { queue: 'calls' } },
    ]);
    const page = await text();
    for (const line of series(page)) expect(line).toContain('service="gateway"');
    expect(page).toContain('# HELP turns_total Turns.\n# TYPE turns_total counter\n');
    expect(page).toContain('turns_total{outcome="stop",service="gateway"} 2');
    expect(page).toContain('turns_active{service="gateway"} 7');
    expect(page).toContain('work_waiting{queue="calls",service="gateway"} 2');
    expect(page).toContain('turn_duration_seconds_sum{outcome="stop",service="gateway"} 0.003');
    const bounds = [...page.matchAll(/turn_duration_seconds_bucket\{.*le="([^"]+)"\} (\d+)/g)];
    expect(bounds.map(([, le]) => le)).toEqual([...secondsBounds.map(String), '+Inf']);
    expect(bounds.map(([, , count]) => count)).toEqual(
      [...secondsBounds, Infinity].map((le) => (le >= 0.003 ? '1' : '0')),
    );
    expect(page).not.toMatch(/otel_scope|target_info|# UNIT/);
  });

  test('shows a counter without labels from the start', async () => {
    const { metrics, text } = createMetrics('gateway', true);
    metrics.counter('inbox_duplicates_total', { help: 'Duplicates.' });
    expect(await text()).toContain('inbox_duplicates_total{service="gateway"} 0');
  });

  test('keeps one metric a name, with the readings of all who gave one', async () => {
    const { metrics, text } = createMetrics('gateway', true);
    const pool = (name: string) => () => [{ value: 1, labels: { pool: name } }];
    metrics.gauge('database_connections_active', { help: 'In use.' }, pool('a'));
    const end = metrics.gauge('database_connections_active', { help: 'In use.' }, pool('b'));
    metrics.counter('turns_total', { help: 'Turns.' }).add(1);
    metrics.counter('turns_total', { help: 'Turns.' }).add(1);
    let page = await text();
    expect(series(page).sort()).toEqual([
      'database_connections_active{pool="a",service="gateway"} 1',
      'database_connections_active{pool="b",service="gateway"} 1',
      'turns_total{service="gateway"} 2',
    ]);
    end();
    page = await text();
    expect(page).not.toContain('pool="b"');
  });

  test('shows a gauge as it is now: a series that is not read any more is gone', async () => {
    const { metrics, text } = createMetrics('gateway', true);
    let partitions = [0, 1];
    metrics.gauge('consumer_last_fetch_age_seconds', { help: 'Age.', labels: ['partition'] }, () =>
      partitions.map((partition) => ({ value: 1, labels: { partition } })),
    );
    expect(series(await text())).toHaveLength(2);
    partitions = [1];
    expect(series(await text())).toEqual([
      'consumer_last_fetch_age_seconds{partition="1",service="gateway"} 1',
    ]);
    partitions = [1, 1];
    expect(series(await text())).toHaveLength(1);
    partitions = [];
    expect(series(await text())).toEqual([]);
  });

  test('outlives a gauge that throws, and one that has nothing to say', async () => {
    const { metrics, text } = createMetrics('gateway', true);
    metrics.gauge('broken', { help: 'x' }, () => {
      throw new Error('no');
    });
    metrics.gauge('silent', { help: 'x' }, () => undefined);
    metrics.gauge('good', { help: 'x' }, () => 1);
    expect(series(await text())).toEqual(['good{service="gateway"} 1']);
  });

  test('refuses a counter whose name the exporter would change', () => {
    const { metrics } = createMetrics('gateway', true);
    expect(() => metrics.counter('turns', { help: 'x' })).toThrow('_total');
  });

  test('is empty when metrics are off', async () => {
    const { metrics, text } = createMetrics('gateway', false);
    metrics.counter('turns_total', { help: 'x' }).add(1);
    metrics.gauge('turns_active', { help: 'x' }, () => 1);
    expect(await text()).toBe('');
  });
});

test('a service tells of its process, its event loop and its errors, also after its telemetry has stopped', async () => {
  const { log, metricsText, shutdown } = startTelemetry({
    service: 'gateway',
    version: '1',
    environment: 'dev',
    instanceId: 'i',
    tracing: true,
    metrics: true,
    logLevel: 'INFO',
    logFormat: 'json',
    logDestination: { write: () => undefined },
  });
  log.error('x', { error: new Error('boom') });
  log.critical('y', { error: new TypeError('boom') });
  await shutdown();
  const page = await metricsText();
  const names = new Set(series(page).map((line) => line.split('{')[0]));
  for (const name of [
    'memory_usage_bytes',
    'process_cpu_seconds_total',
    'process_start_time_seconds',
    'nodejs_heap_used_bytes',
    'nodejs_eventloop_lag_seconds',
    'nodejs_eventloop_utilization',
  ])
    expect(names).toContain(name);
  expect(page).toContain('service_errors_total{error_code="INTERNAL_ERROR",service="gateway"} 2');
  expect(page).toContain('service_critical_errors_total{error_type="TypeError",service="gateway"} 1');
});
