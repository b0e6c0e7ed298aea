import { ValueType } from '@opentelemetry/api';
import { hrTime } from '@opentelemetry/core';
import { emptyResource } from '@opentelemetry/resources';
import {
  AggregationTemporality,
  DataPointType,
  type GaugeMetricData,
  type MetricProducer,
} from '@opentelemetry/sdk-metrics';

/** Values of a metric's labels. Few and known: never a session, a person or free text. */
export type Labels = Readonly<Record<string, string | number | boolean>>;

export type GaugeReading =
  | number
  | readonly { readonly value: number; readonly labels: Labels }[]
  | undefined;

export interface Gauges {
  register(name: string, help: string, read: () => GaugeReading): () => void;
  readonly producer: MetricProducer;
}

/**
 * Gauges that show what is, each time somebody looks. The SDK's observable gauges are cumulative on a Prometheus reader: a
 * series seen once is shown for ever with its last value, so the age of a partition that was revoked an hour ago would
 * look like a stall. Here a series that is not read is not there.
 */
export function createGauges(): Gauges {
  const gauges = new Map<string, { help: string; readers: Set<() => GaugeReading> }>();
  const startTime = hrTime();

  function dataOf(name: string, help: string, readers: ReadonlySet<() => GaugeReading>): GaugeMetricData {
    const endTime = hrTime();
    // One series a set of labels: a page with two of them is refused as a whole.
    const readings = new Map(
      [...readers].flatMap(readSafely).map((each) => [JSON.stringify(each.labels), each]),
    );
    return {
      descriptor: { name, description: help, unit: '', valueType: ValueType.DOUBLE },
      aggregationTemporality: AggregationTemporality.CUMULATIVE,
      dataPointType: DataPointType.GAUGE,
      dataPoints: [...readings.values()].map(({ value, labels }) => ({
        startTime,
        endTime,
        attributes: { ...labels },
        value,
      })),
    };
  }

  return {
    register(name, help, read) {
      const gauge = gauges.get(name) ?? { help, readers: new Set() };
      gauges.set(name, gauge);
      gauge.readers.add(read);
      return () => {
        gauge.readers.delete(read);
      };
    },
    producer: {
      async collect() {
        const metrics = [...gauges]
          .map(([name, { help, readers }]) => dataOf(name, help, readers))
          .filter((data) => data.dataPoints.length > 0);
        return {
          resourceMetrics: {
            resource: emptyResource(),
            scopeMetrics: [{ scope: { name: 'signalbox' }, metrics }],
          },
          errors: [],
        };
      },
    },
  };
}

/** A gauge that cannot be read is missing from the page; the page itself must not fail for it. */
function readSafely(read: () => GaugeReading): readonly { value: number; labels: Labels }[] {
  try {
    const reading = read();
    if (reading === undefined) return [];
    return typeof reading === 'number' ? [{ value: reading, labels: {} }] : reading;
  } catch {
    return [];
  }
}
