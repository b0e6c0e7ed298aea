import { randomUUID } from 'node:crypto';
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { answerFaultOrders, createFaultBook } from '../fault-orders.ts';
import { type ListenOptions, readText, sendJson, serveStandIn } from '../stand-in-server.ts';
import { anthropicWire } from './anthropic-wire.ts';
import { type Conversation, isFields } from './conversation.ts';
import { type FaultOrder, type Faults, fitsMessage, parseFaultHeader, parseFaultOrder } from './faults.ts';
import { openaiWire } from './openai-wire.ts';
import { answerTo, tokensOf } from './rules.ts';
import type { Reply, StreamPiece, Wire } from './wire.ts';

export interface ModelSimulator {
  /** The value for MODEL_BASE_URL (OpenAI's form, ending in /v1). */
  readonly url: string;
  /** Replaces the orders in force, as PUT /admin/faults does. */
  setFaults(orders: readonly FaultOrder[]): void;
  close(): Promise<void>;
}

const maxBodyBytes = 8 << 20;
const requestsKept = 100;

function countTokens(conversation: Conversation): number {
  const texts = [conversation.system, ...conversation.messages.map(({ text }) => text)];
  return texts.reduce((sum, text) => sum + tokensOf(text).length, 0) + 8 * conversation.tools.length;
}

/** The rules' answer with the token limit applied and usage counted. */
export function makeReply(conversation: Conversation, model: string): Reply {
  const full = answerTo(conversation);
  const tokens = tokensOf(full.text);
  const cut = conversation.maxTokens !== undefined && tokens.length > conversation.maxTokens;
  const answer = cut ? { ...full, text: tokens.slice(0, conversation.maxTokens).join(''), calls: [] } : full;
  const spoken = tokensOf(answer.text).length + tokensOf(answer.thinking).length;
  return {
    id: randomUUID().replaceAll('-', '').slice(0, 24),
    model: `stand-in:${model}`,
    createdAt: Math.floor(Date.now() / 1_000),
    answer,
    cut,
    inputTokens: countTokens(conversation),
    outputTokens:
      spoken + answer.calls.reduce((sum, call) => sum + 1 + Object.keys(call.arguments).length, 0),
  };
}

/** Cuts the stream where the faults say; `cut` tells that the connection is to be broken after the last piece. */
function applyStreamFaults(
  pieces: readonly StreamPiece[],
  faults: Faults,
  wire: Wire,
): { pieces: StreamPiece[]; cut: boolean } {
  const stopAt = Math.min(faults.cutAfterTokens ?? Infinity, faults.malformedAfterTokens ?? Infinity);
  if (stopAt === Infinity) return { pieces: [...pieces], cut: false };
  const kept: StreamPiece[] = [];
  let tokens = 0;
  for (const piece of pieces) {
    if (piece.token && tokens >= stopAt) break;
    if (piece.token) tokens += 1;
    else if (tokens > 0 && tokens >= stopAt) break;
    kept.push(piece);
  }
  if (faults.malformedAfterTokens === stopAt)
    return { pieces: [...kept, { bytes: wire.malformedPiece, token: false }], cut: false };
  return { pieces: kept, cut: true };
}

/** Writes the pieces, all at once or at the pace asked for. A high pace sends several a tick, so that it is held. */
async function writePaced(
  response: ServerResponse,
  pieces: readonly StreamPiece[],
  faults: Faults,
  signal: AbortSignal,
) {
  if (faults.firstTokenMs !== undefined) await delay(faults.firstTokenMs, undefined, { signal });
  const pace = faults.tokensPerSecond;
  if (pace === undefined || pace === 0) {
    response.write(pieces.map(({ bytes }) => bytes).join(''));
    return;
  }
  const startedAt = performance.now();
  let tokens = 0;
  let pending = '';
  for (const { bytes, token } of pieces) {
    const dueAt = startedAt + (tokens * 1_000) / pace;
    const wait = token ? dueAt - performance.now() : 0;
    if (wait >= 1) {
      if (pending !== '') response.write(pending);
      pending = '';
      await delay(wait, undefined, { signal });
    }
    if (token) tokens += 1;
    pending += bytes;
  }
  response.write(pending);
}

async function sendStream(
  response: ServerResponse,
  all: readonly StreamPiece[],
  faults: Faults,
  wire: Wire,
  signal: AbortSignal,
) {
  const { pieces, cut } = applyStreamFaults(all, faults, wire);
  response.writeHead(200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache',
  });
  if (faults.firstTokenMs !== undefined || faults.tokensPerSecond !== undefined) response.flushHeaders();
  await writePaced(response, pieces, faults, signal);
  if (!cut) {
    response.end();
    return;
  }
  // What was written must be on its way before the connection breaks, or the client sees less than asked for.
  await new Promise<void>((resolve) => response.write('', () => resolve()));
  await delay(5);
  response.destroy();
}

function sendWhole(response: ServerResponse, body: unknown, faults: Faults): void {
  const broken = faults.malformedAfterTokens !== undefined || faults.cutAfterTokens !== undefined;
  if (!broken) {
    sendJson(response, 200, body);
    return;
  }
  const text = JSON.stringify(body);
  const half = text.slice(0, Math.floor(text.length / 2));
  const length = faults.cutAfterTokens === undefined ? half.length : text.length;
  response.writeHead(200, {
    'content-type': 'application/json',
    'content-length': String(length),
  });
  response.write(half, () => (faults.cutAfterTokens === undefined ? response.end() : response.destroy()));
}

/** A request as GET /admin/requests shows it: what a test wants to know about what the model was told. */
interface SeenRequest {
  readonly at: string;
  readonly path: string;
  readonly model: string;
  readonly conversation: Conversation;
  /** Undefined while it is answered. `broken`: the connection closed before the whole reply was sent. */
  ended?: 'whole' | 'broken';
  ended_at?: string;
}

/** Starts the stand-in model; port 0 takes a free one. */
export async function startModelSimulator(
  options: ListenOptions & { readonly defaults?: Faults } = {},
): Promise<ModelSimulator> {
  const book = createFaultBook(fitsMessage);
  const seen: SeenRequest[] = [];
  const wires = new Map<string, Wire>([
    ['/v1/chat/completions', openaiWire],
    ['/v1/messages', anthropicWire],
  ]);

  const complete = async (
    request: IncomingMessage,
    response: ServerResponse,
    path: string,
    wire: Wire,
  ): Promise<void> => {
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    let body: unknown;
    let ordered: Faults | undefined;
    try {
      const header = request.headers['x-simulator-fault'];
      if (typeof header === 'string') ordered = parseFaultHeader(header);
      body = JSON.parse(await readText(request, maxBodyBytes));
    } catch (error) {
      return sendJson(
        response,
        400,
        wire.failure(400, error instanceof Error ? error.message : 'bad request'),
      );
    }
    if (!isFields(body) || !Array.isArray(body.messages)) {
      return sendJson(response, 400, wire.failure(400, 'messages: a list is required'));
    }
    const conversation = wire.read(body);
    const model = typeof body.model === 'string' ? body.model : 'default';
    const one: SeenRequest = { at: new Date().toISOString(), path, model, conversation };
    seen.push(one);
    response.once('close', () => {
      one.ended = response.writableFinished ? 'whole' : 'broken';
      one.ended_at = new Date().toISOString();
    });
    if (seen.length > requestsKept) seen.shift();
    const lastUserMessage = conversation.messages.findLast(({ role }) => role === 'user')?.text ?? '';
    const faults: Faults = { ...options.defaults, ...book.take(lastUserMessage), ...ordered };

    if (faults.hang === true) return;
    if (faults.latencyMs !== undefined) await delay(faults.latencyMs, undefined, { signal: gone.signal });
    if (faults.status !== undefined) {
      const retry = faults.retryAfterMs;
      const headers: Record<string, string> =
        retry === undefined
          ? {}
          : { 'retry-after': String(Math.ceil(retry / 1_000)), 'retry-after-ms': String(retry) };
      return sendJson(
        response,
        faults.status,
        wire.failure(faults.status, 'a fault that was asked for'),
        headers,
      );
    }
    const reply = makeReply(conversation, model);
    if (body.stream === true) await sendStream(response, wire.pieces(reply, body), faults, wire, gone.signal);
    else sendWhole(response, wire.whole(reply), faults);
  };

  const route = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const path = (request.url ?? '/').split('?')[0] ?? '/';
    const wire = wires.get(path);
    const name = `${request.method} ${path}`;
    if (wire !== undefined && request.method === 'POST') return complete(request, response, path, wire);
    if (/^(GET|PUT|DELETE) \/admin\/faults$/.test(name)) {
      return answerFaultOrders(request, response, book, parseFaultOrder);
    }
    request.resume();
    if (name === 'GET /admin/requests') return sendJson(response, 200, seen);
    if (name === 'GET /live') return sendJson(response, 200, { status: 'alive' });
    if (name === 'GET /v1/models') {
      const model = { id: 'stand-in', object: 'model', created: 0, owned_by: 'signalbox development stack' };
      return sendJson(response, 200, { object: 'list', data: [model] });
    }
    sendJson(response, 404, openaiWire.failure(404, `${name}: this stand-in has no such route`));
  };

  const listener: RequestListener = (request, response) => {
    // What ends up here is a client that went away in the middle: nobody is left to be told.
    route(request, response).catch(() => response.destroy());
  };
  const { url, close } = await serveStandIn('model', listener, options);
  return { url: `${url}/v1`, setFaults: (orders) => book.set(orders), close };
}
