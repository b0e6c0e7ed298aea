import {
  type Context,
  context,
  createNoopMeter,
  INVALID_SPAN_CONTEXT,
  ProxyTracer,
  type Span,
  type SpanOptions,
  trace,
} from '@opentelemetry/api';
import { registerInstrumentations } from '@opentelemetry/instrumentation';
import { KafkaJsInstrumentation } from '@opentelemetry/instrumentation-kafkajs';

/**
 * Imported first in every main: what is loaded after it is instrumented.
 *
 * kafkajs is CommonJS and `@signalbox/messaging` loads it through createRequire, so the require hook reaches it. The
 * import hook would put itself around every ES module of the process to find this one.
 */

/**
 * By itself the instrumentation makes a span for every record of every batch, a delta too, and begins a new trace for
 * what is fetched or sent outside of a request. Here it makes spans only below one that is recorded: the hops of a
 * message are spans of `@signalbox/messaging`, in the trace that the record carries.
 */
class OnlyBelowASpan extends ProxyTracer {
  override startSpan(name: string, options?: SpanOptions, at: Context = context.active()): Span {
    const below = trace.getSpan(at)?.isRecording() === true;
    if (!below) return trace.wrapSpanContext(INVALID_SPAN_CONTEXT);
    return trace.getTracer(this.name, this.version).startSpan(name, options, at);
  }
}

const noMetrics = createNoopMeter();

registerInstrumentations({
  instrumentations: [new KafkaJsInstrumentation()],
  tracerProvider: {
    getTracer: (name, version, options) =>
      new OnlyBelowASpan({ getDelegateTracer: () => undefined }, name, version, options),
  },
  meterProvider: { getMeter: () => noMetrics },
});
