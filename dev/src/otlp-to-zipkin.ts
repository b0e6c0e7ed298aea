/**
 * OTLP/JSON traces into Zipkin v2 spans, by OpenTelemetry's "Zipkin exporter" mapping
 * (https://opentelemetry.io/docs/specs/otel/trace/sdk_exporters/zipkin/). Zipkin has no OTLP input of its own.
 */

export interface ZipkinSpan {
  traceId: string;
  id: string;
  parentId?: string;
  name: string;
  kind?: 'CLIENT' | 'SERVER' | 'PRODUCER' | 'CONSUMER';
  /** Microseconds since 1970. */
  timestamp: number;
  /** Microseconds, at least 1: Zipkin takes 0 as unknown. */
  duration: number;
  localEndpoint: { serviceName: string };
  remoteEndpoint?: { serviceName: string };
  annotations?: { timestamp: number; value: string }[];
  tags: Record<string, string>;
}

type Fields = Readonly<Record<string, unknown>>;

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const list = (value: unknown): Fields[] => (Array.isArray(value) ? value.filter(isFields) : []);
const text = (value: unknown): string => (typeof value === 'string' ? value : '');

/** An OTLP AnyValue as text; arrays and maps as JSON. */
function anyValue(value: unknown): unknown {
  if (!isFields(value)) return undefined;
  if ('stringValue' in value) return value.stringValue;
  if ('boolValue' in value) return value.boolValue;
  // 64 bits: JSON carries them as text, and they stay text.
  if ('intValue' in value) return value.intValue;
  if ('doubleValue' in value) return value.doubleValue;
  if ('bytesValue' in value) return value.bytesValue;
  if (isFields(value.arrayValue)) return list(value.arrayValue.values).map(anyValue);
  if (isFields(value.kvlistValue)) return attributes(value.kvlistValue.values);
  return undefined;
}

function attributes(value: unknown): Record<string, string> {
  const entries = list(value).flatMap((each) => {
    const inner = anyValue(each.value);
    if (inner === undefined || inner === null) return [];
    return [[text(each.key), typeof inner === 'object' ? JSON.stringify(inner) : String(inner)] as const];
  });
  return Object.fromEntries(entries);
}

/** Nanoseconds, as text or number, to microseconds: through BigInt, a double would lose the last digits. */
function micros(value: unknown): number {
  if (typeof value === 'string' && /^\d+$/.test(value)) return Number(BigInt(value) / 1_000n);
  return typeof value === 'number' ? Math.floor(value / 1_000) : 0;
}

const kinds: Readonly<Record<string, NonNullable<ZipkinSpan['kind']>>> = {
  '2': 'SERVER',
  '3': 'CLIENT',
  '4': 'PRODUCER',
  '5': 'CONSUMER',
  SPAN_KIND_SERVER: 'SERVER',
  SPAN_KIND_CLIENT: 'CLIENT',
  SPAN_KIND_PRODUCER: 'PRODUCER',
  SPAN_KIND_CONSUMER: 'CONSUMER',
};

/** Zipkin draws an arrow to it: the first of these that a client or producer span has. */
const peerAttributes = [
  'peer.service',
  'server.address',
  'net.peer.name',
  'messaging.destination.name',
  'db.system.name',
  'db.system',
];

function statusTags(status: unknown): Record<string, string> {
  if (!isFields(status)) return {};
  const code = status.code;
  if (code === 2 || code === 'STATUS_CODE_ERROR') {
    return { 'otel.status_code': 'ERROR', error: text(status.message) || 'true' };
  }
  return code === 1 || code === 'STATUS_CODE_OK' ? { 'otel.status_code': 'OK' } : {};
}

function annotationsOf(events: unknown): { timestamp: number; value: string }[] {
  return list(events).map((event) => {
    const fields = attributes(event.attributes);
    const name = text(event.name);
    const value = Object.keys(fields).length === 0 ? name : `${name}: ${JSON.stringify(fields)}`;
    return { timestamp: micros(event.timeUnixNano), value };
  });
}

/** Zipkin has no links: they are kept as tags, so that a batch's span still names the traces it served. */
function linkTags(links: unknown): Record<string, string> {
  return Object.fromEntries(
    list(links).map((link, index) => [`link.${index}`, `${text(link.traceId)}-${text(link.spanId)}`]),
  );
}

function toZipkinSpan(
  span: Fields,
  serviceName: string,
  resourceTags: Record<string, string>,
  scope: unknown,
): ZipkinSpan | undefined {
  const traceId = text(span.traceId).toLowerCase();
  const id = text(span.spanId).toLowerCase();
  if (!/^[0-9a-f]{32}$/.test(traceId) || !/^[0-9a-f]{16}$/.test(id)) return undefined;
  const parentId = text(span.parentSpanId).toLowerCase();
  const timestamp = micros(span.startTimeUnixNano);
  const kind = kinds[String(span.kind)];
  const own = attributes(span.attributes);
  const annotations = annotationsOf(span.events);
  const peer =
    kind === 'CLIENT' || kind === 'PRODUCER'
      ? peerAttributes.find((name) => own[name] !== undefined)
      : undefined;
  const scopeName = isFields(scope) ? text(scope.name) : '';
  return {
    traceId,
    id,
    ...(/^[0-9a-f]{16}$/.test(parentId) ? { parentId } : {}),
    name: text(span.name),
    ...(kind === undefined ? {} : { kind }),
    timestamp,
    duration: Math.max(1, micros(span.endTimeUnixNano) - timestamp),
    localEndpoint: { serviceName },
    ...(peer === undefined ? {} : { remoteEndpoint: { serviceName: own[peer] ?? '' } }),
    ...(annotations.length === 0 ? {} : { annotations }),
    tags: {
      ...resourceTags,
      ...(scopeName === '' ? {} : { 'otel.scope.name': scopeName }),
      ...own,
      ...linkTags(span.links),
      ...statusTags(span.status),
    },
  };
}

/** What of the resource is worth repeating on each of its spans. */
const resourceKept = ['service.version', 'service.instance.id', 'deployment.environment.name'];

export interface Translation {
  readonly spans: ZipkinSpan[];
  /** Spans without a usable trace or span id. */
  readonly rejected: number;
}

/** Translates one ExportTraceServiceRequest. Unknown fields are passed over; spans without ids are counted as rejected. */
export function toZipkin(request: unknown): Translation {
  const spans: ZipkinSpan[] = [];
  let rejected = 0;
  for (const resourceSpans of list(isFields(request) ? request.resourceSpans : undefined)) {
    const resource = attributes(
      isFields(resourceSpans.resource) ? resourceSpans.resource.attributes : undefined,
    );
    const serviceName = resource['service.name'] ?? 'unknown_service';
    const resourceTags = Object.fromEntries(
      resourceKept.flatMap((name) => (resource[name] === undefined ? [] : [[name, resource[name]] as const])),
    );
    for (const scopeSpans of list(resourceSpans.scopeSpans)) {
      for (const span of list(scopeSpans.spans)) {
        const translated = toZipkinSpan(span, serviceName, resourceTags, scopeSpans.scope);
        if (translated === undefined) rejected += 1;
        else spans.push(translated);
      }
    }
  }
  return { spans, rejected };
}
