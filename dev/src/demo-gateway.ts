import { PartProblem } from './part-problem.ts';

export interface Gateway {
  readonly url: string;
  readonly apiKey: string;
}

export interface Posted {
  readonly sessionId: string;
  readonly eventId: string;
  readonly turnId: string;
}

export interface StreamedEvent {
  readonly type: string;
  readonly data: Readonly<Record<string, unknown>>;
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null;
const text = (value: unknown): string => (typeof value === 'string' ? value : '');

async function request(gateway: Gateway, path: string, init: RequestInit): Promise<Response> {
  let reply: Response;
  try {
    reply = await fetch(new URL(path, gateway.url), {
      ...init,
      headers: { 'x-api-key': gateway.apiKey, 'content-type': 'application/json' },
    });
  } catch (error) {
    throw new PartProblem(
      `no gateway answers at ${gateway.url}: start the stack (npm start) or name one in GATEWAY_URL`,
      { cause: error },
    );
  }
  if (!reply.ok)
    throw new PartProblem(`${path} was answered with ${reply.status}: ${(await reply.text()).slice(0, 500)}`);
  return reply;
}

/** Posts one message into a new session. @throws PartProblem when the gateway does not take it. */
export async function post(gateway: Gateway, message: string): Promise<Posted> {
  const reply = await request(gateway, '/v1/session/message', {
    method: 'POST',
    body: JSON.stringify({ message }),
    signal: AbortSignal.timeout(15_000),
  });
  const body: unknown = await reply.json();
  if (!isRecord(body)) throw new PartProblem('the gateway answered with something else than ids');
  return { sessionId: text(body.session_id), eventId: text(body.event_id), turnId: text(body.turn_id) };
}

/** How many memories fit a text. */
export async function countMemories(gateway: Gateway, query: string): Promise<number> {
  const reply = await request(gateway, '/v1/memory/search', {
    method: 'POST',
    body: JSON.stringify({ query }),
    signal: AbortSignal.timeout(15_000),
  });
  const body: unknown = await reply.json();
  return isRecord(body) && Array.isArray(body.memories) ? body.memories.length : 0;
}

/** Cuts a body into server-sent events (WHATWG HTML, 9.2); comments and events without data are passed over. */
export function parseEvents(buffer: string): { events: StreamedEvent[]; rest: string } {
  const blocks = buffer.split('\n\n');
  const rest = blocks.pop() ?? '';
  const events = blocks.flatMap((block) => {
    const field = (name: string) =>
      block
        .split('\n')
        .filter((line) => line.startsWith(`${name}:`))
        .map((line) => line.slice(name.length + 1).replace(/^ /, ''))
        .join('\n');
    const data = field('data');
    if (data === '') return [];
    const parsed: unknown = JSON.parse(data);
    return isRecord(parsed) ? [{ type: field('event'), data: parsed }] : [];
  });
  return { events, rest };
}

/** The events of a session, from its first, until `signal` aborts or the gateway ends the stream. */
export async function* streamOf(
  gateway: Gateway,
  sessionId: string,
  signal: AbortSignal,
): AsyncGenerator<StreamedEvent> {
  const reply = await request(gateway, `/v1/session/${sessionId}/events`, { signal });
  const decoder = new TextDecoder();
  let buffer = '';
  for await (const chunk of reply.body ?? []) {
    const { events, rest } = parseEvents(
      (buffer + decoder.decode(chunk, { stream: true })).replaceAll('\r\n', '\n'),
    );
    buffer = rest;
    yield* events;
  }
}
