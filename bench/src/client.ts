import { Agent, request } from 'node:http';
import { Pool } from 'undici';

export interface StreamEvent {
  id: string;
  type: string;
  /** The data line as it came; parsed by whoever needs it, so that a flood of deltas costs the client little. */
  data: string;
  atMs: number;
}

export interface OpenStream {
  /** Resolves once the response's header is there: from then on nothing is missed. */
  opened: Promise<void>;
  close(): void;
}

const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY });

/** Follows a session's events over SSE. `onEvent` runs in the socket's read callback: keep it short. */
export function followSession(
  base: string,
  apiKey: string,
  path: string,
  onEvent: (event: StreamEvent) => void,
): OpenStream {
  const { promise: opened, resolve, reject } = Promise.withResolvers<void>();
  const outgoing = request(new URL(path, base), {
    agent,
    headers: { 'x-api-key': apiKey, accept: 'text/event-stream' },
  });
  outgoing.on('error', reject);
  outgoing.on('response', (response) => {
    if (response.statusCode !== 200) {
      reject(new Error(`${path} answered ${response.statusCode}`));
      response.resume();
      return;
    }
    resolve();
    let rest = '';
    response.setEncoding('utf8');
    response.on('error', () => {});
    response.on('data', (chunk: string) => {
      const atMs = performance.now();
      rest += chunk;
      let end = rest.indexOf('\n\n');
      while (end !== -1) {
        const event = parseBlock(rest.slice(0, end), atMs);
        rest = rest.slice(end + 2);
        if (event !== undefined) onEvent(event);
        end = rest.indexOf('\n\n');
      }
    });
  });
  outgoing.end();
  return { opened, close: () => outgoing.destroy() };
}

function parseBlock(block: string, atMs: number): StreamEvent | undefined {
  let id = '';
  let type = '';
  let data = '';
  for (const line of block.split('\n')) {
    if (line.startsWith('data:')) data += line.slice(5).trimStart();
    else if (line.startsWith('event:')) type = line.slice(6).trim();
    else if (line.startsWith('id:')) id = line.slice(3).trim();
  }
  return data === '' ? undefined : { id, type, data, atMs };
}

export interface Posted {
  status: number;
  ms: number;
  sessionId: string;
  turnId: string;
}

/** Posts messages over a fixed number of keep-alive connections. */
export function openPoster(base: string, apiKey: string, connections: number) {
  const pool = new Pool(base, { connections, pipelining: 1 });
  return {
    async post(body: object): Promise<Posted> {
      const startedAt = performance.now();
      const response = await pool.request({
        path: '/v1/session/message',
        method: 'POST',
        headers: { 'content-type': 'application/json', 'x-api-key': apiKey },
        body: JSON.stringify(body),
      });
      const text = await response.body.text();
      const ms = performance.now() - startedAt;
      if (response.statusCode !== 202) return { status: response.statusCode, ms, sessionId: '', turnId: '' };
      const answer: { session_id?: string; turn_id?: string } = JSON.parse(text);
      return { status: 202, ms, sessionId: answer.session_id ?? '', turnId: answer.turn_id ?? '' };
    },
    close: () => pool.close(),
  };
}

export type Poster = ReturnType<typeof openPoster>;

/** Keeps `width` calls of `next` running until it returns false, and waits for the last. */
export async function closedLoop(width: number, next: (index: number) => Promise<boolean>): Promise<void> {
  const loops = Array.from({ length: width }, async (_, index) => {
    while (await next(index)) {
      // The loop's own work is the awaited call.
    }
  });
  await Promise.all(loops);
}
