import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { verifyWebhook, webhookSecret } from '@signalbox/http-client/webhook-signature';
import { createFaultBook, type FaultOrder, parseFaultOrder } from './faults.ts';

/** A call as GET /admin/calls shows it. */
export interface SeenCall {
  readonly tenant: string;
  readonly webhook_id: string;
  readonly timestamp: string;
  /** What the check of its headers said: ok, headers, timestamp, signature. */
  readonly verdict: string;
  /** Whether this id was taken before: a receiver has no effect then. */
  readonly repeat: boolean;
  /** What it was answered with; 0 when the connection was reset or left open. */
  readonly status: number;
  readonly traceparent: string | undefined;
  readonly host: string | undefined;
  readonly body: unknown;
  readonly at: string;
}

export interface WebhookReceiver {
  readonly url: string;
  setFaults(orders: readonly FaultOrder[]): void;
  readonly calls: readonly SeenCall[];
  close(): Promise<void>;
}

const standInHeader = { 'x-signalbox-stand-in': 'webhooks' };
const maxBodyBytes = 4 << 20;
const callsKept = 1_000;

/** Starts the receiver; port 0 takes a free one. `signingSecret`: the installation's, which it derives its tenants' from. */
export async function startWebhookReceiver(options: {
  readonly signingSecret: string;
  readonly port?: number;
  readonly host?: string;
}): Promise<WebhookReceiver> {
  const book = createFaultBook();
  const calls: SeenCall[] = [];
  const taken = new Set<string>();

  async function receive(request: IncomingMessage, response: ServerResponse, tenant: string): Promise<void> {
    const text = await readText(request);
    const headers = {
      'webhook-id': one(request, 'webhook-id'),
      'webhook-timestamp': one(request, 'webhook-timestamp'),
      'webhook-signature': one(request, 'webhook-signature'),
    };
    const verdict = verifyWebhook(webhookSecret(options.signingSecret, tenant), headers, text);
    const id = headers['webhook-id'] ?? '';
    const faults = book.take({ tenant, body: text });
    const status = verdict === 'ok' ? (faults.status ?? 204) : 401;
    const lost = faults.hang === true || faults.lostAnswer === true;
    const repeat = taken.has(`${tenant} ${id}`);
    if (verdict === 'ok' && faults.hang !== true && (status < 300 || faults.lostAnswer === true))
      taken.add(`${tenant} ${id}`);
    calls.push({
      ...{ tenant, webhook_id: id, timestamp: headers['webhook-timestamp'] ?? '', verdict, repeat },
      status: lost ? 0 : status,
      traceparent: one(request, 'traceparent'),
      host: request.headers.host,
      body: readJson(text),
      at: new Date().toISOString(),
    });
    if (calls.length > callsKept) calls.shift();
    if (faults.latencyMs !== undefined) await delay(faults.latencyMs);
    if (faults.hang === true) return;
    if (faults.lostAnswer === true) {
      request.socket.resetAndDestroy();
      return;
    }
    const { retryAfterSeconds: after, location } = faults;
    response.writeHead(status, {
      ...standInHeader,
      ...(after === undefined ? {} : { 'retry-after': String(after) }),
      ...(location === undefined ? {} : { location }),
    });
    response.end();
  }

  async function administer(request: IncomingMessage, response: ServerResponse, path: string): Promise<void> {
    if (path === '/admin/calls') return sendJson(response, 200, calls);
    if (path !== '/admin/faults') return sendJson(response, 404, { message: 'no such route' });
    if (request.method === 'PUT') {
      const orders = readJson(await readText(request));
      try {
        book.set((Array.isArray(orders) ? orders : [orders]).map(parseFaultOrder));
      } catch (error) {
        return sendJson(response, 422, { message: String(error) });
      }
    }
    if (request.method === 'DELETE') book.set([]);
    sendJson(response, 200, book.list());
  }

  const server = createServer((request, response) => {
    const path = URL.parse(request.url ?? '/', 'http://receiver')?.pathname ?? '/';
    const [, tenant] = /^\/hooks\/([a-z0-9-]{1,40})$/.exec(path) ?? [];
    const answered =
      tenant !== undefined && request.method === 'POST'
        ? receive(request, response, tenant)
        : path === '/'
          ? Promise.resolve(sendText(response, overview(calls)))
          : path === '/live'
            ? Promise.resolve(sendJson(response, 200, { status: 'alive' }))
            : administer(request, response, path);
    answered.catch(() => response.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port ?? 0, options.host ?? '127.0.0.1', resolve);
  });
  const address = server.address();
  const port = typeof address === 'object' ? address?.port : options.port;
  return {
    url: `http://127.0.0.1:${port}`,
    setFaults: (orders) => book.set(orders),
    calls,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** The calls as people read them, the last one first. */
function overview(calls: readonly SeenCall[]): string {
  const rows = calls.toReversed().map((call) => {
    const { type, data } = fieldsOf(call.body);
    const { task_id: task, status } = fieldsOf(data);
    const seen = call.repeat ? 'repeat' : 'new';
    return `${call.at}  ${call.tenant}  ${call.verdict}  ${seen}  answered ${call.status}  ${String(type)}  ${String(task)}  ${String(status)}`;
  });
  return `A stand-in receiver of webhooks: POST /hooks/<tenant>\n\n${rows.join('\n') || 'nothing yet'}\n`;
}

function fieldsOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : {};
}

function one(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name];
  return typeof value === 'string' ? value : undefined;
}

async function readText(request: IncomingMessage): Promise<string> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of request) {
    if (!Buffer.isBuffer(piece)) continue;
    bytes += piece.length;
    if (bytes > maxBodyBytes) throw new Error('too long');
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString('utf8');
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json', ...standInHeader });
  response.end(JSON.stringify(body));
}

function sendText(response: ServerResponse, text: string): void {
  response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8', ...standInHeader });
  response.end(text);
}
