import { newId } from '@signalbox/contracts/ids';
import { isFaultCode } from '@signalbox/faults/catalog';
import { fault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import { createParser } from 'eventsource-parser';

export interface GatewayAddress {
  readonly url: string;
  readonly apiKey: string;
}

export interface PostedMessage {
  readonly sessionId: string;
  readonly eventId: string;
  readonly turnId: string;
}

export interface ReceivedEvent {
  readonly id: string | undefined;
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

const requestTimeoutMs = 15_000;
const maxPostTries = 8;
/** Longer than the gateway's keepalive: a stream that is silent for this long is dead. */
const silenceMs = 45_000;
const maxOutageMs = 120_000;

/** Posts a message; see post. */
export async function postMessage(
  gateway: GatewayAddress,
  message: { message: string; session_id?: string; persona_id?: string },
  signal: AbortSignal,
): Promise<PostedMessage> {
  return readPosted(await post(gateway, '/v1/session/message', message, signal));
}

/** Asks for the end of a turn; its stream says when it has ended. See post. */
export async function cancelTurn(
  gateway: GatewayAddress,
  turn: { session_id: string; turn_id: string },
  signal: AbortSignal,
): Promise<void> {
  await post(gateway, '/v1/session/action', { ...turn, action: 'cancel' }, signal);
}

/**
 * Posts. A lost answer or a 429/503 is tried again under the same Idempotency-Key, so it has one effect. Throws the
 * fault of the gateway's problem reply, or TIMEOUT when it does not answer.
 */
async function post(
  gateway: GatewayAddress,
  path: string,
  value: object,
  signal: AbortSignal,
): Promise<unknown> {
  const body = JSON.stringify(value);
  const headers = {
    'content-type': 'application/json',
    'x-api-key': gateway.apiKey,
    'idempotency-key': newId(),
  };
  for (let tried = 1; ; tried += 1) {
    signal.throwIfAborted();
    let response: Response | undefined;
    try {
      response = await fetch(new URL(path, gateway.url), {
        method: 'POST',
        headers,
        body,
        signal: AbortSignal.any([signal, AbortSignal.timeout(requestTimeoutMs)]),
      });
    } catch (error) {
      signal.throwIfAborted();
      if (tried >= maxPostTries)
        throw fault('TIMEOUT', `no gateway answers at ${gateway.url}`, { cause: error });
    }
    if (response?.status === 202) return await response.json();
    if (response !== undefined && (![429, 503].includes(response.status) || tried >= maxPostTries)) {
      throw await refusal(response);
    }
    await response?.body?.cancel();
    await pause(retryDelayMs(response, tried), signal);
  }
}

/**
 * The events of a session from `lastEventId` on (all that are kept without one), across cuts: after one it connects
 * again when the server's `retry` says, and resumes behind the last event seen. Ends when `signal` aborts. Throws what
 * the gateway refuses with, and TIMEOUT when it is away for two minutes.
 */
export async function* sessionEvents(
  gateway: GatewayAddress,
  sessionId: string,
  signal: AbortSignal,
  lastEventId?: string,
): AsyncGenerator<ReceivedEvent, void, void> {
  let lastId = lastEventId;
  let retryMs = 1000;
  let downSince: number | undefined;
  while (!signal.aborted) {
    const connection = new AbortController();
    const watchdog = setTimeout(() => connection.abort(), silenceMs);
    try {
      const response = await fetch(new URL(`/v1/session/${sessionId}/events`, gateway.url), {
        headers: {
          accept: 'text/event-stream',
          'x-api-key': gateway.apiKey,
          ...(lastId === undefined ? {} : { 'last-event-id': lastId }),
        },
        signal: AbortSignal.any([signal, connection.signal]),
      });
      if (response.status === 410) {
        // What lies behind the last event is no longer kept: all that is kept, then.
        lastId = undefined;
        await response.body?.cancel();
        continue;
      }
      if (response.ok && response.body !== null) {
        downSince = undefined;
        for await (const event of readEvents(response.body, (ms) => {
          retryMs = ms;
        })) {
          watchdog.refresh();
          if (event === 'alive') continue;
          lastId = event.id ?? lastId;
          yield event;
        }
      } else if (![429, 502, 503, 504].includes(response.status)) throw await refusal(response);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Error && error.name === 'Fault') throw error;
    } finally {
      clearTimeout(watchdog);
      connection.abort();
    }
    downSince ??= performance.now();
    if (performance.now() - downSince > maxOutageMs)
      throw fault('TIMEOUT', `no gateway answers at ${gateway.url}`);
    await pause(retryMs * (0.75 + Math.random() / 2), signal);
  }
}

async function* readEvents(
  body: ReadableStream<Uint8Array>,
  onRetry: (ms: number) => void,
): AsyncGenerator<ReceivedEvent | 'alive', void, void> {
  const ready: (ReceivedEvent | 'alive')[] = [];
  const parser = createParser({
    onEvent: ({ id, event, data }) => ready.push({ id, event: event ?? 'message', data: readData(data) }),
    onComment: () => ready.push('alive'),
    onRetry,
  });
  const decoder = new TextDecoder();
  for await (const bytes of body) {
    parser.feed(decoder.decode(bytes, { stream: true }));
    yield* ready.splice(0);
  }
}

function readData(data: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(data);
    return typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : {};
  } catch {
    return {};
  }
}

function readPosted(body: unknown): PostedMessage {
  const read = (name: string): string => {
    const value: unknown = typeof body === 'object' && body !== null ? Reflect.get(body, name) : undefined;
    if (typeof value !== 'string') throw fault('INTERNAL_ERROR', `the gateway's answer has no ${name}`);
    return value;
  };
  return { sessionId: read('session_id'), eventId: read('event_id'), turnId: read('turn_id') };
}

/** A problem reply as the fault it tells of, with the ids that find it in the gateway's log. */
async function refusal(response: Response): Promise<Error> {
  const text = await response.text();
  const problem = readData(text);
  const code = String(problem.error_code ?? '');
  const places = Array.isArray(problem.errors)
    ? problem.errors.map((each: unknown) => JSON.stringify(each)).join(', ')
    : '';
  const message = [
    `${response.status} ${String(problem.message ?? text.slice(0, 200))}`,
    places,
    problem.error_id === undefined ? '' : `error_id ${String(problem.error_id)}`,
  ];
  return fault(isFaultCode(code) ? code : 'INTERNAL_ERROR', message.filter(Boolean).join('; '));
}

function retryDelayMs(response: Response | undefined, tried: number): number {
  const asked = Number(response?.headers.get('retry-after') ?? Number.NaN) * 1000;
  if (Number.isFinite(asked)) return Math.min(asked, 30_000);
  return Math.random() * Math.min(5000, 200 * 2 ** tried);
}
