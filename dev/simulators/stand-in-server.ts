import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http';

export interface ListenOptions {
  /** 0, or none, takes a free one. */
  readonly port?: number;
  /** Default 127.0.0.1. */
  readonly host?: string;
}

/**
 * Serves a stand-in until it is closed, which breaks what is open. Every reply has the header `x-signalbox-stand-in`, so
 * that nobody takes it for what it stands in for. `url` is where this machine reaches it.
 */
export async function serveStandIn(
  name: string,
  listener: RequestListener,
  { port: wanted = 0, host = '127.0.0.1' }: ListenOptions,
): Promise<{ readonly url: string; close(): Promise<void> }> {
  const server = createServer((request, response) => {
    response.setHeader('x-signalbox-stand-in', name);
    listener(request, response);
  });
  // Longer than any client keeps a connection, so that none is closed under a request.
  server.keepAliveTimeout = 60_000;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(wanted, host, resolve);
  });
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : wanted;
  return {
    url: `http://${host === '0.0.0.0' ? '127.0.0.1' : host}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** What a caller did wrong, in words for it. */
export class BadRequest extends Error {}

/** The body as text. @throws BadRequest when it is longer. */
export async function readText(request: IncomingMessage, maxBytes: number): Promise<string> {
  const pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of request) {
    const bytes: Buffer = Buffer.isBuffer(piece) ? piece : Buffer.from(piece);
    size += bytes.length;
    if (size > maxBytes) throw new BadRequest(`a body of more than ${maxBytes} bytes`);
    pieces.push(bytes);
  }
  return Buffer.concat(pieces).toString('utf8');
}

export function sendJson(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
}
