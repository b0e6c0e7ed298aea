import { createServer, type IncomingMessage } from 'node:http';
import { gunzipSync } from 'node:zlib';
import { waitFor } from './wait.ts';

export type AttributeValue = string | number | boolean | readonly AttributeValue[];

export interface CollectedSpan {
  readonly service: string;
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId: string | undefined;
  /** OTLP: 1 internal, 2 server, 3 client, 4 producer, 5 consumer. */
  readonly kind: number;
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly durationMs: number;
  readonly attributes: Readonly<Record<string, AttributeValue>>;
  readonly links: readonly { traceId: string; spanId: string }[];
  /** OTLP: 0 unset, 1 ok, 2 error. */
  readonly status: number;
}

export interface SpanNode {
  readonly span: CollectedSpan;
  readonly children: readonly SpanNode[];
}

export interface SpanCollector {
  /** What OTEL_EXPORTER_OTLP_ENDPOINT is set to. */
  readonly url: string;
  readonly spans: readonly CollectedSpan[];
  trace(traceId: string): CollectedSpan[];
  /** The trees of one trace: a span whose parent was not collected is a root. Children by start time. */
  tree(traceId: string): SpanNode[];
  find(matches: (span: CollectedSpan) => boolean, timeoutMs?: number): Promise<CollectedSpan>;
  /** Waits until the spans of the trace satisfy the predicate. */
  untilTrace(
    traceId: string,
    reached: (spans: readonly CollectedSpan[]) => boolean,
    timeoutMs?: number,
  ): Promise<readonly CollectedSpan[]>;
  clear(): void;
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** A receiver for OTLP/HTTP in JSON (/v1/traces) that keeps the spans; metrics and logs are taken and dropped. */
export async function startSpanCollector(): Promise<SpanCollector> {
  const spans: CollectedSpan[] = [];
  const server = createServer(async (request, response) => {
    try {
      const body = await read(request);
      if (request.url === '/v1/traces') {
        spans.push(...parse(JSON.parse(body.toString('utf8'))));
      }
      response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
    } catch (error) {
      response.writeHead(400).end(String(error));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  const trace = (traceId: string) => spans.filter((span) => span.traceId === traceId);
  const close = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  return {
    url: `http://127.0.0.1:${port}`,
    spans,
    trace,
    tree: (traceId) => spanTree(trace(traceId)),
    async find(matches, timeoutMs = 10_000) {
      const found = await waitFor(
        () => spans.find(matches),
        (span) => span !== undefined,
        { timeoutMs, label: `a span (have ${[...new Set(spans.map((span) => span.name))].join(', ')})` },
      );
      return found;
    },
    untilTrace: (traceId, reached, timeoutMs = 10_000) =>
      waitFor(() => trace(traceId), reached, { timeoutMs, label: `spans of trace ${traceId}` }),
    clear: () => {
      spans.length = 0;
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** Builds the trees of spans by parent; a span whose parent is not among them is a root. */
export function spanTree(spans: readonly CollectedSpan[]): SpanNode[] {
  const known = new Set(spans.map((span) => span.spanId));
  const byStart = [...spans].sort((a, b) => (a.startNs < b.startNs ? -1 : a.startNs > b.startNs ? 1 : 0));
  const grow = (parent: CollectedSpan): SpanNode => ({
    span: parent,
    children: byStart.filter((span) => span.parentSpanId === parent.spanId).map(grow),
  });
  return byStart.filter((span) => span.parentSpanId === undefined || !known.has(span.parentSpanId)).map(grow);
}

/** The tree as lines `service name ms`, indented by depth: for messages of failed assertions. */
export function printTree(nodes: readonly SpanNode[], depth = 0): string {
  return nodes
    .map(({ span, children }) => {
      const line = `${'  '.repeat(depth)}${span.service} ${span.name} ${span.durationMs.toFixed(1)} ms`;
      return children.length === 0 ? line : `${line}\n${printTree(children, depth + 1)}`;
    })
    .join('\n');
}

async function read(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of request) {
    parts.push(part);
  }
  const body = Buffer.concat(parts);
  return request.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body;
}

// OTLP's JSON mapping (opentelemetry-proto, trace.proto): ids are hex, int64 is text, every value is tagged.
interface OtlpValue {
  stringValue?: string;
  boolValue?: boolean;
  intValue?: string | number;
  doubleValue?: number;
  arrayValue?: { values?: OtlpValue[] };
}
interface OtlpAttribute {
  key: string;
  value?: OtlpValue;
}
interface OtlpSpan {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  kind?: number;
  startTimeUnixNano: string | number;
  endTimeUnixNano: string | number;
  attributes?: OtlpAttribute[];
  links?: { traceId: string; spanId: string }[];
  status?: { code?: number };
}
interface OtlpTraces {
  resourceSpans?: { resource?: { attributes?: OtlpAttribute[] }; scopeSpans?: { spans?: OtlpSpan[] }[] }[];
}

function parse(body: OtlpTraces): CollectedSpan[] {
  return (body.resourceSpans ?? []).flatMap((resource) => {
    const service = String(attributesOf(resource.resource?.attributes)['service.name'] ?? 'unknown');
    return (resource.scopeSpans ?? []).flatMap((scope) =>
      (scope.spans ?? []).map((span) => collected(service, span)),
    );
  });
}

function collected(service: string, span: OtlpSpan): CollectedSpan {
  const startNs = BigInt(span.startTimeUnixNano);
  const endNs = BigInt(span.endTimeUnixNano);
  return {
    service,
    name: span.name,
    traceId: span.traceId,
    spanId: span.spanId,
    parentSpanId: span.parentSpanId === '' ? undefined : span.parentSpanId,
    kind: span.kind ?? 0,
    startNs,
    endNs,
    durationMs: Number(endNs - startNs) / 1e6,
    attributes: attributesOf(span.attributes),
    links: (span.links ?? []).map(({ traceId, spanId }) => ({ traceId, spanId })),
    status: span.status?.code ?? 0,
  };
}

function attributesOf(attributes: OtlpAttribute[] = []): Record<string, AttributeValue> {
  return Object.fromEntries(attributes.map(({ key, value }) => [key, plain(value)]));
}

function plain(value: OtlpValue = {}): AttributeValue {
  if (value.arrayValue !== undefined) {
    return (value.arrayValue.values ?? []).map(plain);
  }
  if (value.intValue !== undefined) {
    return Number(value.intValue);
  }
  return value.stringValue ?? value.boolValue ?? value.doubleValue ?? '';
}
