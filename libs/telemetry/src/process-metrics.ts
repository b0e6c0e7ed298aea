import { readdirSync } from 'node:fs';
import { monitorEventLoopDelay, performance } from 'node:perf_hooks';
import type { Meter } from '@opentelemetry/api';
import type { Metrics } from './metrics.ts';

/** What a process says about itself: memory, CPU, open files, event loop. Returns a function that ends the watching. */
export function processMetrics(metrics: Metrics, meter: Meter): () => void {
  // 50 ms: fine enough to see a stall, and a twentieth of a percent of a core.
  const delay = monitorEventLoopDelay({ resolution: 50 });
  delay.enable();
  let lastUtilization = performance.eventLoopUtilization();

  metrics.gauge('memory_usage_bytes', { help: 'Resident memory of the process.' }, () =>
    process.memoryUsage.rss(),
  );
  metrics.gauge('process_resident_memory_bytes', { help: 'Resident memory of the process.' }, () =>
    process.memoryUsage.rss(),
  );
  metrics.gauge(
    'nodejs_heap_used_bytes',
    { help: 'Used JavaScript heap.' },
    () => process.memoryUsage().heapUsed,
  );
  metrics.gauge(
    'nodejs_external_memory_bytes',
    { help: 'Memory of buffers outside the heap.' },
    () => process.memoryUsage().external,
  );
  const startedAt = Date.now() / 1_000 - process.uptime();
  metrics.gauge(
    'process_start_time_seconds',
    { help: 'When the process started, since 1970.' },
    () => startedAt,
  );
  metrics.gauge('process_open_fds', { help: 'Open file descriptors.' }, openFiles);
  metrics.gauge(
    'nodejs_active_resources',
    { help: 'Handles and requests that keep the process alive.' },
    () => process.getActiveResourcesInfo().length,
  );
  metrics.gauge(
    'nodejs_eventloop_lag_seconds',
    { help: 'Delay of the event loop since the last look.', labels: ['quantile'] },
    () => {
      const seconds = (nanoseconds: number) => Math.max(0, nanoseconds / 1e9 - 0.05);
      const reading = [
        { value: seconds(delay.percentile(50)), labels: { quantile: '0.5' } },
        { value: seconds(delay.percentile(99)), labels: { quantile: '0.99' } },
        { value: seconds(delay.max), labels: { quantile: '1' } },
      ];
      delay.reset();
      return reading;
    },
  );
  metrics.gauge(
    'nodejs_eventloop_utilization',
    { help: 'Share of time the event loop was busy since the last look.' },
    () => {
      const now = performance.eventLoopUtilization();
      const { utilization } = performance.eventLoopUtilization(now, lastUtilization);
      lastUtilization = now;
      return Number.isFinite(utilization) ? utilization : 0;
    },
  );
  meter
    .createObservableCounter('process_cpu_seconds_total', { description: 'CPU time spent, user and system.' })
    .addCallback((result) => {
      const { user, system } = process.cpuUsage();
      result.observe((user + system) / 1e6);
    });
  return () => delay.disable();
}

function openFiles(): number | undefined {
  try {
    return readdirSync('/proc/self/fd').length;
  } catch {
    return undefined;
  }
}
