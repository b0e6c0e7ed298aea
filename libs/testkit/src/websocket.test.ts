import { once } from 'node:events';
import { createServer } from 'node:http';
import { afterAll, expect, test } from 'vitest';
import { WebSocketServer } from 'ws';
import { openWebSocket, SocketRefused } from './websocket.ts';

const http = createServer();
const sockets = new WebSocketServer({ noServer: true });
http.on('upgrade', (request, socket, head) => {
  if (request.url === '/refused') {
    socket.end('HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno');
    return;
  }
  sockets.handleUpgrade(request, socket, head, (client) => {
    client.send(JSON.stringify({ key: request.headers['x-api-key'] }));
    client.on('message', (data) => client.send(String(data)));
    client.on('message', (data) => String(data) === 'bye' && client.close(1001, 'leaving'));
  });
});
await once(http.listen(0, '127.0.0.1'), 'listening');
const address = http.address();
const url = `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`;

afterAll(() => {
  sockets.close();
  http.close();
});

test('messages are kept, parsed where they are JSON, and the close is told', async () => {
  await using socket = await openWebSocket(url, { headers: { 'x-api-key': 'k' } });
  socket.send({ a: 1 });
  socket.send('bye');
  await socket.until((messages) => messages.length === 3);
  expect(socket.messages).toEqual([{ key: 'k' }, { a: 1 }, 'bye']);
  expect(await socket.closed).toEqual({ code: 1001, reason: 'leaving' });
});

test('a refused upgrade tells status and body', async () => {
  const refused = await openWebSocket(`${url}/refused`).catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(SocketRefused);
  expect(refused).toMatchObject({ status: 401, body: 'no' });
});
