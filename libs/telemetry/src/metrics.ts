import type { Meter, Counter as OtelCounter, Histogram as OtelHistogram } from '@opentelemetry/api';
import { createNoopMeter } from '@opentelemetry/api';
import { PrometheusExporter, PrometheusSerializer } from '@opentelemetry/exporter-prometheus';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { MeterProvider } from '@opentelemetry/sdk-metrics';
import { createGauges, type GaugeReading, type Gauges, type Labels } from './gauges.ts';

export type { GaugeReading, Labels } from './gauges.ts';

export interface MetricOptions {
  readonly help: string;
  /** Names of its labels. A counter without any shows its 0 from the start. */
  readonly labels?: readonly string[];
}

export interface Counter {
  add(count: number, labels?: Labels): void;
}
export interface Histogram {
  /** Seconds, as every histogram here. */
  record(seconds: number, labels?: Labels): void;
}
/**
 * Makes metrics. Names are on /metrics exactly as given, with the label `service` on each series. Asking twice for a
 * name gives the same metric; a gauge asked for twice shows the readings of both.
 */
export interface Metrics {
  /** The name ends in `_total`. */
  counter(name: string, options: MetricOptions): Counter;
  histogram(name: string, options: MetricOptions): Histogram;
  /** `read` is called when somebody looks; what it leaves out is not shown. Returns a function that ends it. */
  gauge(name: string, options: MetricOptions, read: () => GaugeReading): () => void;
}

/** Bounds of every histogram, in seconds. */
export const secondsBounds = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60];

export interface MetricsPart {
  readonly metrics: Metrics;
  readonly meter: Meter;
  /** Prometheus text. Goes on answering until the process ends: the last scrape sees the shutdown. */
  text(): Promise<string>;
}

export function createMetrics(service: string, enabled: boolean): MetricsPart {
  const gauges = createGauges();
  if (!enabled) {
    const meter = createNoopMeter();
    return { metrics: metricsOver(meter, gauges), meter, text: async () => '' };
  }
  // A reader that never listens: the service's own server answers /metrics.
  const reader = new PrometheusExporter({ preventServerStart: true, metricProducers: [gauges.producer] });
  const provider = new MeterProvider({ resource: resourceFromAttributes({ service }), readers: [reader] });
  const meter = provider.getMeter('signalbox');
  // Names verbatim: no scope labels, no target_info, no unit on any instrument (it would become a comment of its own).
  const serializer = new PrometheusSerializer('', false, /^service$/, true, true);
  return {
    metrics: metricsOver(meter, gauges),
    meter,
    async text() {
      const { resourceMetrics } = await reader.collect();
      return serializer.serialize(resourceMetrics);
    },
  };
}

export function metricsOver(meter: Meter, gauges: Gauges): Metrics {
  const counters = new Map<string, OtelCounter>();
  const histograms = new Map<string, OtelHistogram>();
  return {
    counter(name, { help, labels = [] }) {
      // The exporter would add it by itself, and the name would not be the one in the code.
      if (!name.endsWith('_total')) throw new Error(`counter ${name} must end in _total`);
      const counter = remembered(counters, name, () => meter.createCounter(name, { description: help }));
      if (labels.length === 0) counter.add(0);
      return { add: (count, values) => counter.add(count, values) };
    },
    histogram(name, { help }) {
      const advice = { explicitBucketBoundaries: secondsBounds };
      const histogram = remembered(histograms, name, () =>
        meter.createHistogram(name, { description: help, advice }),
      );
      return { record: (seconds, values) => histogram.record(seconds, values) };
    },
    gauge: (name, { help }, read) => gauges.register(name, help, read),
  };
}

function remembered<T>(known: Map<string, T>, name: string, make: () => T): T {
  let metric = known.get(name);
  if (metric === undefined) {
    metric = make();
    known.set(name, metric);
  }
  return metric;
}
