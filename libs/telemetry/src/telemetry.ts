import type { Tracer } from '@opentelemetry/api';
import { setGlobalErrorHandler } from '@opentelemetry/core';
import { createLogger, type Logger, type LogLevel } from './logger.ts';
import { createMetrics, type Metrics } from './metrics.ts';
import { processMetrics } from './process-metrics.ts';
import { startSpans } from './spans.ts';

export type { LogFields, Logger, LogLevel } from './logger.ts';
export type { Counter, GaugeReading, Histogram, Labels, Metrics } from './metrics.ts';

export interface TelemetryOptions {
  readonly service: string;
  readonly version: string;
  readonly environment: string;
  readonly instanceId: string;
  readonly tracing: boolean;
  readonly metrics: boolean;
  /** Base address of an OTLP/HTTP collector; without one spans are made and not sent. */
  readonly otlpEndpoint?: string | undefined;
  readonly sampleRatio?: number;
  readonly logLevel: LogLevel;
  readonly logFormat: 'json' | 'pretty';
  /** Where log lines go instead of stdout, for tests. */
  readonly logDestination?: { write(line: string): void };
}

export interface Telemetry {
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly tracer: Tracer;
  /** Prometheus text of all metrics; empty when they are off. Answers after `shutdown` too. */
  metricsText(): Promise<string>;
  /** Sends the spans that wait, for at most 2 s, and ends recording. Log and metrics go on. Never rejects. */
  shutdown(): Promise<void>;
}

const shutdownTimeoutMs = 2_000;
const complaintPauseMs = 60_000;

/** Starts logs, metrics and traces of this process. Nothing here blocks or throws when a collector is away. */
export function startTelemetry(options: TelemetryOptions): Telemetry {
  const { service, version, environment, instanceId } = options;
  const { metrics, meter, text } = createMetrics(service, options.metrics);
  const errors = metrics.counter('service_errors_total', {
    help: 'Errors logged, by code.',
    labels: ['error_code'],
  });
  const criticalErrors = metrics.counter('service_critical_errors_total', {
    help: 'Critical errors logged, by type.',
    labels: ['error_type'],
  });
  const log = createLogger({
    service,
    version,
    environment,
    instanceId,
    level: options.logLevel,
    format: options.logFormat,
    onProblem(level, errorCode, errorType) {
      errors.add(1, { error_code: errorCode });
      if (level === 'CRITICAL') criticalErrors.add(1, { error_type: errorType });
    },
    ...(options.logDestination === undefined ? {} : { destination: options.logDestination }),
  });
  const endProcessMetrics = options.metrics ? processMetrics(metrics, meter) : () => undefined;
  complainRarely(log);
  const spans = startSpans({
    service,
    version,
    environment,
    instanceId,
    enabled: options.tracing,
    otlpEndpoint: options.otlpEndpoint,
    sampleRatio: options.sampleRatio ?? 1,
  });
  return {
    log,
    metrics,
    tracer: spans.tracer,
    metricsText: text,
    async shutdown() {
      await spans.shutdown(shutdownTimeoutMs);
      endProcessMetrics();
    },
  };
}

/** A collector that is away fails a batch a second; one line a minute says so. */
function complainRarely(log: Logger): void {
  let nextAt = 0;
  setGlobalErrorHandler((error: unknown) => {
    const now = performance.now();
    if (now < nextAt) return;
    nextAt = now + complaintPauseMs;
    log.warning('telemetry.export_failed', {
      reason: error instanceof Error ? error.message : String(error),
    });
  });
}
