import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { answerFaultOrders, createFaultBook } from '../fault-orders.ts';
import { BadRequest, type ListenOptions, readText, sendJson, serveStandIn } from '../stand-in-server.ts';
import { type FaultOrder, type Faults, fitsRequest, parseFaultOrder } from './faults.ts';
import { createMemoryBook, type HeldMemory } from './store.ts';

/** A request as GET /admin/requests shows it. */
export interface SeenRequest {
  readonly path: string;
  readonly tenant: string;
  readonly idempotency_key: string;
  readonly traceparent: string | undefined;
  /** Memories in it. */
  readonly count: number;
}

export interface MemorySimulator {
  /** The value for MEMORY_BACKEND_URL. */
  readonly url: string;
  /** Replaces the orders in force, as PUT /admin/faults does. */
  setFaults(orders: readonly FaultOrder[]): void;
  held(tenant?: string): readonly HeldMemory[];
  effects(): Readonly<Record<string, { readonly sent: number; readonly effects: number }>>;
  readonly requests: readonly SeenRequest[];
  close(): Promise<void>;
}

const maxBodyBytes = 16 << 20;
const requestsKept = 1_000;

/** Starts the stand-in backend; port 0 takes a free one. */
export async function startMemorySimulator(options: ListenOptions = {}): Promise<MemorySimulator> {
  const book = createFaultBook(fitsRequest);
  const memories = createMemoryBook();
  const requests: SeenRequest[] = [];

  const remember = async (
    request: IncomingMessage,
    response: ServerResponse,
    path: string,
  ): Promise<void> => {
    const text = await readText(request, maxBodyBytes);
    const tenant = headerOf(request, 'x-tenant-id');
    const key = headerOf(request, 'idempotency-key');
    const parts = partsOf(path, readFields(text), tenant, key);
    requests.push({
      ...{ path, tenant, idempotency_key: key, count: parts.length },
      traceparent: request.headers.traceparent?.toString(),
    });
    if (requests.length > requestsKept) requests.shift();
    const faults: Faults = book.take({ path, tenant, body: text }) ?? {};
    if (faults.latencyMs !== undefined) await delay(faults.latencyMs);
    if (faults.hang === true) return;
    if (faults.reset === true) {
      request.socket.resetAndDestroy();
      return;
    }
    if (faults.status !== undefined) {
      const after = faults.retryAfterSeconds;
      return sendJson(
        response,
        faults.status,
        { message: 'a fault that was asked for' },
        {
          ...(after === undefined ? {} : { 'retry-after': String(after) }),
        },
      );
    }
    const results = parts.map(({ memory, idempotencyKey }) => {
      const { memory_id, version } = memory;
      if (isRefused(memory, faults)) return { memory_id, version, status: 422 };
      memories.take(memory, idempotencyKey);
      return { memory_id, version, status: 200 };
    });
    if (faults.lostAnswer === true) {
      request.socket.resetAndDestroy();
      return;
    }
    const [only] = results;
    if (path.endsWith('/batch')) sendJson(response, 200, { results });
    else sendJson(response, only?.status ?? 200, only ?? {});
  };

  const administer = async (
    request: IncomingMessage,
    response: ServerResponse,
    route: string,
    tenant: string | undefined,
  ): Promise<void> => {
    if (route === 'GET /admin/memories') return sendJson(response, 200, memories.list(tenant));
    if (route === 'GET /admin/effects') return sendJson(response, 200, memories.effects());
    if (route === 'GET /admin/requests') return sendJson(response, 200, requests);
    await answerFaultOrders(request, response, book, parseFaultOrder);
  };

  const route = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const url = new URL(request.url ?? '/', 'http://localhost');
    const path = url.pathname;
    const name = `${request.method} ${path}`;
    if (/^POST \/(memory\/remember(\/batch)?|recall\/delete)$/.test(name)) {
      return await remember(request, response, path);
    }
    if (/^((GET|PUT|DELETE) \/admin\/faults|GET \/admin\/(memories|effects|requests))$/.test(name)) {
      return await administer(request, response, name, url.searchParams.get('tenant') ?? undefined);
    }
    request.resume();
    if (name === 'GET /live') return sendJson(response, 200, { status: 'alive' });
    sendJson(response, 404, { message: `${name}: this stand-in has no such route` });
  };

  const listener: RequestListener = (request, response) => {
    route(request, response).catch((error: unknown) => {
      const known = error instanceof BadRequest || error instanceof SyntaxError;
      // Anything else is a client that went away in the middle: nobody is left to be told.
      if (known && !response.headersSent) sendJson(response, 422, { message: error.message });
      else response.destroy();
    });
  };
  return {
    ...(await serveStandIn('memory', listener, options)),
    setFaults: (orders) => book.set(orders),
    held: (tenant) => memories.list(tenant),
    effects: () => memories.effects(),
    requests,
  };
}

function isRefused({ body }: HeldMemory, { refuse }: Faults): boolean {
  return refuse !== undefined && typeof body.text === 'string' && body.text.includes(refuse);
}

/** The memories of a request with the key of each. @throws BadRequest */
function partsOf(path: string, fields: Fields, tenant: string, key: string) {
  const given = path.endsWith('/batch') ? fields.memories : [fields];
  if (!Array.isArray(given) || given.length === 0) throw new BadRequest('memories: a list is required');
  return given.map((each: unknown) => {
    const body = asFields(each);
    const { memory_id, version, idempotency_key } = body;
    if (typeof memory_id !== 'string' || typeof version !== 'number') {
      throw new BadRequest('memory_id and version are required');
    }
    const memory: HeldMemory = { tenant, memory_id, version, deleted: path === '/recall/delete', body };
    return { memory, idempotencyKey: typeof idempotency_key === 'string' ? idempotency_key : key };
  });
}

type Fields = Readonly<Record<string, unknown>>;

function asFields(value: unknown): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new BadRequest('an object is wanted');
  return Object.fromEntries(Object.entries(value));
}

function readFields(text: string): Fields {
  const value: unknown = JSON.parse(text);
  return asFields(value);
}

function headerOf(request: IncomingMessage, name: string): string {
  const value = request.headers[name];
  if (typeof value !== 'string' || value === '') throw new BadRequest(`the header ${name} is required`);
  return value;
}
