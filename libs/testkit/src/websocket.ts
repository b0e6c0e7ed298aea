import { once } from 'node:events';
import { WebSocket } from 'ws';
import { waitFor } from './wait.ts';

export interface TestSocket {
  /** Messages in order, parsed where they are JSON. */
  readonly messages: readonly unknown[];
  send(message: string | object): void;
  /** Waits until the messages as a whole satisfy the predicate. */
  until(reached: (messages: readonly unknown[]) => boolean, timeoutMs?: number): Promise<readonly unknown[]>;
  readonly closed: Promise<{ code: number; reason: string }>;
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** An upgrade that the server refused. */
export class SocketRefused extends Error {
  readonly status: number;
  readonly body: string;
  constructor(status: number, body: string) {
    super(`no WebSocket: ${status} ${body.slice(0, 500)}`);
    this.name = 'SocketRefused';
    this.status = status;
    this.body = body;
  }
}

/** Opens a WebSocket (`http:` and `ws:` URLs alike). Throws SocketRefused when the server answers with HTTP. */
export async function openWebSocket(
  url: string,
  options: { headers?: Record<string, string>; protocols?: string[] } = {},
): Promise<TestSocket> {
  const socket = new WebSocket(url.replace(/^http/, 'ws'), options.protocols ?? [], {
    headers: options.headers ?? {},
  });
  const messages: unknown[] = [];
  socket.on('message', (data: Buffer) => messages.push(parsed(data.toString('utf8'))));
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    socket.on('close', (code, reason) => resolve({ code, reason: reason.toString('utf8') }));
  });
  await new Promise<void>((resolve, reject) => {
    socket.once('open', resolve);
    socket.on('error', reject);
    socket.once('unexpected-response', (_, response) => {
      const parts: Buffer[] = [];
      response.on('data', (part: Buffer) => parts.push(part));
      response.on('end', () => {
        reject(new SocketRefused(response.statusCode ?? 0, Buffer.concat(parts).toString('utf8')));
        socket.terminate();
      });
    });
  });
  const close = async () => {
    if (socket.readyState === WebSocket.CLOSED) {
      return;
    }
    const gone = once(socket, 'close');
    socket.close(1000);
    const timer = setTimeout(() => socket.terminate(), 1_000);
    await gone;
    clearTimeout(timer);
  };
  return {
    messages,
    send: (message) => socket.send(typeof message === 'string' ? message : JSON.stringify(message)),
    until: (reached, timeoutMs = 10_000) =>
      waitFor(() => messages, reached, { timeoutMs, intervalMs: 5, label: `messages of ${url}` }),
    closed,
    close,
    [Symbol.asyncDispose]: close,
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
