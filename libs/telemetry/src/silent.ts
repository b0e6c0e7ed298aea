import { createNoopMeter } from '@opentelemetry/api';
import { createGauges } from './gauges.ts';
import type { Logger } from './logger.ts';
import { type Metrics, metricsOver } from './metrics.ts';

/** A logger that writes nothing, for tests and tools. */
export const silentLog: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warning: () => undefined,
  error: () => undefined,
  critical: () => undefined,
  child: () => silentLog,
  enabled: () => false,
};

/** Metrics that nobody reads, for tests and tools. */
export const silentMetrics: Metrics = metricsOver(createNoopMeter(), createGauges());
