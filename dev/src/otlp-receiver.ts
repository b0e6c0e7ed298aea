import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { gunzipSync } from 'node:zlib';
import { toZipkin, type ZipkinSpan } from './otlp-to-zipkin.ts';

export interface OtlpReceiver {
  /** The value for OTEL_EXPORTER_OTLP_ENDPOINT. */
  readonly url: string;
  close(): Promise<void>;
}

export interface OtlpReceiverOptions {
  readonly port: number;
  readonly host?: string;
  /** Zipkin's address; undefined while it is not up yet, spans wait until then. */
  readonly zipkinUrl: () => string | undefined;
}

const maxBodyBytes = 16 << 20;
/** Spans that wait for Zipkin; the oldest go first when it does not come. */
const maxWaiting = 20_000;
const batchSize = 1_000;
const flushEveryMs = 200;

async function readBody(request: IncomingMessage): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request) {
    const bytes: Buffer = Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk);
    size += bytes.length;
    if (size > maxBodyBytes) return undefined;
    chunks.push(bytes);
  }
  const body = Buffer.concat(chunks);
  return request.headers['content-encoding'] === 'gzip'
    ? gunzipSync(body, { maxOutputLength: maxBodyBytes })
    : body;
}

function reply(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

/**
 * Takes OTLP/HTTP traces as JSON on /v1/traces and passes them to Zipkin, in batches. Protobuf is answered with 415 and
 * what to do about it; metrics and logs, which have no place in Zipkin, are accepted and dropped.
 */
export async function startOtlpReceiver(options: OtlpReceiverOptions): Promise<OtlpReceiver> {
  let waiting: ZipkinSpan[] = [];
  let sending: Promise<void> | undefined;

  const send = async (): Promise<void> => {
    const zipkin = options.zipkinUrl();
    while (zipkin !== undefined && waiting.length > 0) {
      const batch = waiting.slice(0, batchSize);
      try {
        const answer = await fetch(`${zipkin}/api/v2/spans`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify(batch),
          signal: AbortSignal.timeout(5_000),
        });
        await answer.arrayBuffer();
        // A batch that Zipkin refuses would be refused again.
        if (answer.status >= 500) return;
      } catch {
        return;
      }
      const sent = new Set(batch);
      waiting = waiting.filter((span) => !sent.has(span));
    }
  };
  const flush = (): Promise<void> => {
    sending ??= send().finally(() => {
      sending = undefined;
    });
    return sending;
  };

  const takeTraces = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const type = request.headers['content-type'] ?? '';
    if (!type.startsWith('application/json')) {
      request.resume();
      reply(response, 415, {
        code: 3,
        message: `this receiver takes OTLP as JSON, not ${type || 'a body without a type'}: set OTEL_EXPORTER_OTLP_PROTOCOL=http/json`,
      });
      return;
    }
    const body = await readBody(request);
    if (body === undefined)
      return reply(response, 413, { code: 3, message: `more than ${maxBodyBytes} bytes` });
    let parsed: unknown;
    try {
      parsed = JSON.parse(body.toString('utf8'));
    } catch {
      return reply(response, 400, { code: 3, message: 'the body is not JSON' });
    }
    const { spans, rejected } = toZipkin(parsed);
    waiting = [...waiting, ...spans].slice(-maxWaiting);
    reply(
      response,
      200,
      rejected === 0 ? {} : { partialSuccess: { rejectedSpans: rejected, errorMessage: 'no valid ids' } },
    );
  };

  const server = createServer((request, response) => {
    if (request.method === 'POST' && request.url === '/v1/traces') {
      takeTraces(request, response).catch(() => {
        if (!response.headersSent) reply(response, 400, { code: 3, message: 'the body could not be read' });
        else response.destroy();
      });
      return;
    }
    request.resume();
    if (request.method === 'POST' && (request.url === '/v1/metrics' || request.url === '/v1/logs'))
      reply(response, 200, {});
    else if (request.method === 'GET' && request.url === '/live') reply(response, 200, { status: 'alive' });
    else reply(response, 404, { code: 5, message: 'POST /v1/traces' });
  });
  const host = options.host ?? '127.0.0.1';
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, host, resolve);
  });
  const timer = setInterval(() => void flush(), flushEveryMs);
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : options.port;
  return {
    url: `http://${host}:${port}`,
    async close() {
      clearInterval(timer);
      server.close();
      server.closeAllConnections();
      await flush();
    },
  };
}
