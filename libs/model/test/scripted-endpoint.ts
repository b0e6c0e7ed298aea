import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** One answer of the endpoint: what it got, and the reply to fill. */
export type Script = (request: { body: unknown; path: string }, reply: ServerResponse) => void;

export interface ScriptedEndpoint extends AsyncDisposable {
  readonly url: string;
  readonly requests: { path: string; body: unknown; headers: IncomingMessage['headers'] }[];
  /** Sockets open now, and all there ever were. */
  readonly open: () => number;
  readonly everOpened: () => number;
  /** Requests whose client went away before the answer was whole. */
  readonly aborted: () => number;
  answer(script: Script): void;
}

/** An HTTP server that answers by script, for forms of an answer that no well-behaved endpoint gives. */
export async function scriptedEndpoint(): Promise<ScriptedEndpoint> {
  let script: Script = (_, reply) => reply.writeHead(500).end();
  let open = 0;
  let everOpened = 0;
  let aborted = 0;
  const requests: ScriptedEndpoint['requests'] = [];
  const server = createServer(async (incoming, reply) => {
    reply.on('close', () => {
      if (!reply.writableFinished) aborted++;
    });
    let text = '';
    for await (const chunk of incoming) text += String(chunk);
    const request = { path: incoming.url ?? '', body: text === '' ? undefined : JSON.parse(text) };
    requests.push({ ...request, headers: incoming.headers });
    script(request, reply);
  });
  server.on('connection', (socket) => {
    open++;
    everOpened++;
    socket.on('close', () => {
      open--;
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    open: () => open,
    everOpened: () => everOpened,
    aborted: () => aborted,
    answer(next) {
      script = next;
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Server-sent events: one `data:` each, with its `event:` where the value has a type that is one. */
export function eventStream(reply: ServerResponse, values: readonly unknown[], end = '[DONE]'): void {
  reply.writeHead(200, { 'content-type': 'text/event-stream' });
  for (const value of values) reply.write(`data: ${JSON.stringify(value)}\n\n`);
  reply.end(end === '' ? undefined : `data: ${end}\n\n`);
}

export function namedEventStream(reply: ServerResponse, values: readonly { type: string }[]): void {
  reply.writeHead(200, { 'content-type': 'text/event-stream' });
  for (const value of values) reply.write(`event: ${value.type}\ndata: ${JSON.stringify(value)}\n\n`);
  reply.end();
}
