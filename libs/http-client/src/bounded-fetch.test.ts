import { createServer } from 'node:http';
import { createServer as createSocketServer } from 'node:net';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type BoundedFetch, createBoundedFetch } from './bounded-fetch.ts';

const server = createServer((_request, response) => {
  response.writeHead(200);
  response.write('begun'); // and never ended
});
let url: string;
let http: BoundedFetch;

beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  url = `http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`;
  http = createBoundedFetch({ maxConnections: 1, idleTimeoutMs: 5_000 });
});
afterAll(() => {
  http.close();
  server.closeAllConnections();
  server.close();
});

/** Errors of destroyed sockets come a few turns of the event loop later; one that nobody takes fails the test run. */
const turns = async (count: number) => {
  for (let at = 0; at < count; at += 1) await new Promise((resolve) => setImmediate(resolve));
};

it('fails a call alone, and not the process, whenever its abort comes', async () => {
  const reason = new Error('no longer wanted');
  await expect(http.fetch(url, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);

  const first = new AbortController();
  const answer = await http.fetch(url, { signal: first.signal });
  expect(answer.status).toBe(200);

  // The only connection is taken: this one waits for it.
  const second = new AbortController();
  const waiting = http.fetch(url, { signal: second.signal });
  const waited = expect(waiting).rejects.toBe(reason);
  await turns(2);
  second.abort(reason);
  await waited;

  first.abort(reason);
  await expect(answer.text()).rejects.toThrow();

  const third = new AbortController();
  const connecting = http.fetch(url, { signal: third.signal });
  third.abort(reason);
  await expect(connecting).rejects.toBe(reason);
  await turns(20);
  expect(http.connections()).toBe(0);
});

it('fails a call whose answer has a status that is none', async () => {
  const odd = createSocketServer((socket) => {
    socket.on('error', () => undefined);
    socket.once('data', (data) => {
      const [, status] = /\/(\d+)/.exec(data.toString()) ?? [];
      socket.end(`HTTP/1.1 ${status} Odd\r\ncontent-length: 4\r\n\r\nbody`);
    });
  });
  await new Promise<void>((resolve) => odd.listen(0, '127.0.0.1', resolve));
  const address = odd.address();
  const base = `http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`;
  for (const status of [600, 999]) {
    await expect(http.fetch(`${base}/${status}`)).rejects.toThrow(`the answer has the status ${status}`);
  }
  expect((await http.fetch(`${base}/599`)).status).toBe(599);
  await turns(20);
  odd.close();
});
