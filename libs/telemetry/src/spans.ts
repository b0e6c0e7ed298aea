import { context, propagation, type TextMapPropagator, type Tracer, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { W3CTraceContextPropagator } from '@opentelemetry/core';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { NodeSDK } from '@opentelemetry/sdk-node';
import {
  AlwaysOffSampler,
  BatchSpanProcessor,
  ParentBasedSampler,
  type SpanProcessor,
  TraceIdRatioBasedSampler,
} from '@opentelemetry/sdk-trace';

export interface SpansOptions {
  readonly service: string;
  readonly version: string;
  readonly environment: string;
  readonly instanceId: string;
  /** Off: nothing is recorded; ids are still made and passed on, for logs and for those behind us. */
  readonly enabled: boolean;
  readonly otlpEndpoint: string | undefined;
  readonly sampleRatio: number;
}

export interface SpansPart {
  readonly tracer: Tracer;
  /** Sends what is waiting, for at most `timeoutMs`, and ends recording. Never rejects. */
  shutdown(timeoutMs: number): Promise<void>;
}

/** Starts recording spans. They leave in batches of their own timer; a collector that is away costs memory for 8 192. */
export function startSpans(options: SpansOptions): SpansPart {
  const exporting = options.enabled && options.otlpEndpoint !== undefined;
  // Another start in the same process (tests) replaces the one before; the API would silently keep the first.
  trace.disable();
  context.disable();
  propagation.disable();
  const sdk = new NodeSDK({
    resource: resourceFromAttributes({
      'service.name': options.service,
      'service.version': options.version,
      'service.instance.id': options.instanceId,
      'deployment.environment.name': options.environment,
    }),
    autoDetectResources: false,
    sampler: options.enabled
      ? new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(options.sampleRatio) })
      : new AlwaysOffSampler(),
    // Without a processor the SDK would make no provider, and then no ids to pass on either.
    spanProcessors: [exporting ? batches(options.otlpEndpoint) : keepsNothing],
    contextManager: new AsyncLocalStorageContextManager().enable(),
    textMapPropagator: keepWhatIsThere(new W3CTraceContextPropagator()),
    // Ours are elsewhere (metrics.ts, logger.ts); left out, the SDK would send both to a collector by itself.
    metricReaders: [],
    logRecordProcessors: [],
  });
  sdk.start();
  return {
    tracer: trace.getTracer('signalbox'),
    async shutdown(timeoutMs) {
      let timer: NodeJS.Timeout | undefined;
      const bound = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, timeoutMs);
      });
      await Promise.race([sdk.shutdown().catch(() => undefined), bound]);
      clearTimeout(timer);
    },
  };
}

const keepsNothing: SpanProcessor = {
  onStart: () => undefined,
  onEnd: () => undefined,
  forceFlush: async () => undefined,
  shutdown: async () => undefined,
};

function batches(endpoint: string): BatchSpanProcessor {
  const exporter = new OTLPTraceExporter({
    url: `${endpoint.replace(/\/+$/, '')}/v1/traces`,
    timeoutMillis: 5_000,
  });
  return new BatchSpanProcessor({
    exporter,
    maxQueueSize: 8_192,
    maxExportBatchSize: 512,
    scheduledDelayMillis: 1_000,
    exportTimeoutMillis: 6_000,
  });
}

/**
 * An outbox row carries the trace of the request that wrote it. Whoever sends it is in another trace or in none, and
 * instrumentation injects what is active: a `traceparent` that is there already must stay.
 */
function keepWhatIsThere(inner: W3CTraceContextPropagator): TextMapPropagator {
  return {
    inject(at, carrier, setter) {
      const has = typeof carrier === 'object' && carrier !== null && 'traceparent' in carrier;
      if (!has) inner.inject(at, carrier, setter);
    },
    extract: (at, carrier, getter) => inner.extract(at, carrier, getter),
    fields: () => inner.fields(),
  };
}
