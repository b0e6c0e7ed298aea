import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { verifyWebhook, webhookSecret } from '@signalbox/http-client/webhook-signature';
import { answerFaultOrders, createFaultBook } from '../fault-orders.ts';
import { type ListenOptions, readText, sendJson, serveStandIn } from '../stand-in-server.ts';
import { type FaultOrder, type Faults, fitsCall, parseFaultOrder } from './faults.ts';

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

const maxBodyBytes = 4 << 20;
const callsKept = 1_000;

/** Starts the receiver; port 0 takes a free one. `signingSecret`: the installation's, which it derives its tenants' from. */
export async function startWebhookReceiver(
  options: ListenOptions & { readonly signingSecret: string },
): Promise<WebhookReceiver> {
  const book = createFaultBook(fitsCall);
  const calls: SeenCall[] = [];
  const taken = new Set<string>();

  async function receive(request: IncomingMessage, response: ServerResponse, tenant: string): Promise<void> {
    const text = await readText(request, maxBodyBytes);
    const headers = {
      'webhook-id': one(request, 'webhook-id'),
      'webhook-timestamp': one(request, 'webhook-timestamp'),
      'webhook-signature': one(request, 'webhook-signature'),
    };
    const verdict = verifyWebhook(webhookSecret(options.signingSecret, tenant), headers, text);
    const id = headers['webhook-id'] ?? '';
    const faults: Faults = book.take({ tenant, body: text }) ?? {};
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
      ...(after === undefined ? {} : { 'retry-after': String(after) }),
      ...(location === undefined ? {} : { location }),
    });
    response.end();
  }

  async function administer(request: IncomingMessage, response: ServerResponse, path: string): Promise<void> {
    if (path === '/admin/calls') return sendJson(response, 200, calls);
    if (path !== '/admin/faults') return sendJson(response, 404, { message: 'no such route' });
    await answerFaultOrders(request, response, book, parseFaultOrder);
  }

  const listener: RequestListener = (request, response) => {
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
  };
  return {
    ...(await serveStandIn('webhooks', listener, options)),
    setFaults: (orders) => book.set(orders),
    calls,
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

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function sendText(response: ServerResponse, text: string): void {
  response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8' });
  response.end(text);
}
