import {
  type Attributes,
  type Context,
  context,
  createTraceState,
  isSpanContextValid,
  ROOT_CONTEXT,
  type Span,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  type Tracer,
  trace,
} from '@opentelemetry/api';
import { asFault } from '@signalbox/faults/fault';

export type { Span } from '@opentelemetry/api';

/** A place in a trace that came from outside the process: a header, a record, a row. */
export type TraceParent = SpanContext;

/** Attribute names of our own; `signalbox trace <event_id>` looks for them. */
export const attribute = {
  eventId: 'signalbox.event_id',
  turnId: 'signalbox.turn_id',
  sessionId: 'signalbox.session_id',
  tenantId: 'signalbox.tenant_id',
  callId: 'signalbox.call_id',
  attempt: 'signalbox.attempt',
  errorCode: 'signalbox.error_code',
} as const;

export interface SpanOptions {
  readonly kind?: 'internal' | 'server' | 'client' | 'producer' | 'consumer';
  readonly attributes?: Attributes;
  readonly links?: readonly TraceParent[];
  /** The parent, where it is not the active span: what a header, a record or a row carries. */
  readonly parent?: TraceParent | string | undefined;
  /** Begins a new trace, whatever is active. */
  readonly root?: boolean;
  /** When it began (epoch milliseconds), for what is told of only after its end. */
  readonly startedAtMs?: number;
}

const kinds = {
  internal: SpanKind.INTERNAL,
  server: SpanKind.SERVER,
  client: SpanKind.CLIENT,
  producer: SpanKind.PRODUCER,
  consumer: SpanKind.CONSUMER,
} as const;

function tracer(): Tracer {
  return trace.getTracer('signalbox');
}

/** Starts a span; the caller ends it. It is not made active: see `inSpan` and `withSpan`. */
export function startSpan(name: string, options: SpanOptions = {}): Span {
  return tracer().startSpan(name, toOtel(options), parentContext(options));
}

/** Runs `fn` with the span active. */
export function inSpan<T>(span: Span, fn: () => T): T {
  return context.with(trace.setSpan(context.active(), span), fn);
}

/** Runs `fn` in a span of its own that ends with it; what it throws is on the span and goes on to the caller. */
export async function withSpan<T>(
  name: string,
  options: SpanOptions,
  fn: (span: Span) => Promise<T> | T,
): Promise<T> {
  const parent = parentContext(options);
  const span = tracer().startSpan(name, toOtel(options), parent);
  try {
    return await context.with(trace.setSpan(parent, span), fn, undefined, span);
  } catch (error) {
    failSpan(span, error);
    throw error;
  } finally {
    span.end();
  }
}

/** Marks a span as failed by `error`. */
export function failSpan(span: Span, error: unknown): void {
  if (!span.isRecording()) return;
  const known = asFault(error);
  span.setAttribute(attribute.errorCode, known.code);
  span.recordException(error instanceof Error ? error : known);
  span.setStatus({ code: SpanStatusCode.ERROR, message: known.message });
}

/** Runs `fn` outside of any trace: for loops that outlive the request which started them. */
export function withoutTrace<T>(fn: () => T): T {
  return context.with(ROOT_CONTEXT, fn);
}

/** `traceparent` of the active span, to be stored or sent. */
export function currentTraceparent(): string | undefined {
  const active = trace.getSpanContext(context.active());
  return active === undefined ? undefined : formatTraceparent(active);
}

/** `traceparent` of a span (W3C Trace Context, version 00). */
export function traceparentOf(span: Span): string | undefined {
  return formatTraceparent(span.spanContext());
}

export function formatTraceparent(at: TraceParent): string | undefined {
  if (!isSpanContextValid(at)) return undefined;
  return `00-${at.traceId}-${at.spanId}-${at.traceFlags & TraceFlags.SAMPLED ? '01' : '00'}`;
}

const traceparent = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;

/** Reads a `traceparent`; undefined for one that is malformed or all zero, and then a new trace begins. */
export function parseTraceparent(text: string | undefined): TraceParent | undefined {
  const match = text === undefined || text.length > 256 ? null : traceparent.exec(text.trim());
  if (match === null) return undefined;
  const [, version, traceId = '', spanId = '', flags = '00', rest] = match;
  // Version 00 has nothing behind the flags, ff is forbidden; later versions may have more, and are read as 00.
  if (version === 'ff' || (version === '00' && rest !== undefined)) return undefined;
  const parsed = {
    traceId,
    spanId,
    traceFlags: Number.parseInt(flags, 16) & TraceFlags.SAMPLED,
    isRemote: true,
  };
  return isSpanContextValid(parsed) ? parsed : undefined;
}

type HeaderValue = string | Uint8Array | readonly (string | Uint8Array)[] | null | undefined;

/** The trace that headers carry, of HTTP or of a Kafka record. */
export function contextFromHeaders(headers: Readonly<Record<string, HeaderValue>>): TraceParent | undefined {
  const parsed = parseTraceparent(headerText(headers.traceparent));
  if (parsed === undefined) return undefined;
  const state = headerText(headers.tracestate);
  return state === undefined || state.length > 512
    ? parsed
    : { ...parsed, traceState: createTraceState(state) };
}

function headerText(value: HeaderValue): string | undefined {
  if (typeof value === 'string') return value;
  if (value instanceof Uint8Array) return Buffer.from(value).toString('utf8');
  // Two traceparent headers are as good as none (W3C).
  return Array.isArray(value) && value.length === 1 ? headerText(value[0]) : undefined;
}

function parentContext(options: SpanOptions): Context {
  if (options.root === true) return trace.deleteSpan(context.active());
  const given = typeof options.parent === 'string' ? parseTraceparent(options.parent) : options.parent;
  return given === undefined ? context.active() : trace.setSpanContext(context.active(), given);
}

function toOtel({ kind, attributes, links, startedAtMs }: SpanOptions) {
  return {
    kind: kinds[kind ?? 'internal'],
    ...(attributes === undefined ? {} : { attributes }),
    ...(startedAtMs === undefined ? {} : { startTime: startedAtMs }),
    ...(links === undefined ? {} : { links: links.map((each) => ({ context: each })) }),
  };
}
