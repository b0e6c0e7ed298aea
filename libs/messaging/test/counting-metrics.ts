import { silentMetrics } from '@signalbox/telemetry/silent';
import type { Metrics } from '@signalbox/telemetry/telemetry';

/** Metrics that are kept: how often each counter or histogram was told something, by its name and labels. */
export function countingMetrics(): {
  readonly metrics: Metrics;
  count(name: string, ...labels: string[]): number;
} {
  const counts = new Map<string, number>();
  const told = (name: string, by: number, labels: object = {}) => {
    const series = [name, ...Object.values(labels)].join(' ');
    counts.set(series, (counts.get(series) ?? 0) + by);
  };
  return {
    metrics: {
      ...silentMetrics,
      counter: (name) => ({ add: (by, labels) => told(name, by, labels) }),
      histogram: (name) => ({ record: (_, labels) => told(name, 1, labels) }),
    },
    count: (name, ...labels) => counts.get([name, ...labels].join(' ')) ?? 0,
  };
}
