import { waitFor } from '@signalbox/testkit/wait';
import { openWebSocket, SocketRefused } from '@signalbox/testkit/websocket';
import { expect, it } from 'vitest';
import { type RunningServer, startServer } from '../test/running-server.ts';
import { openSocketStream, type SocketStream, type SocketStreamOptions } from './web-socket.ts';

async function sockets(
  options: SocketStreamOptions = {},
): Promise<RunningServer & { streams: SocketStream[] }> {
  const streams: SocketStream[] = [];
  const running = await startServer({
    routes: (server) => {
      server.get('/ws', { websocket: true }, (socket, request) => {
        streams.push(openSocketStream(socket, request, options));
      });
      server.get('/plain', () => ({}));
    },
  });
  return Object.assign(running, { streams });
}

it('sends text, closes with a code, and is logged as an upgrade with its duration', async () => {
  await using running = await sockets();
  await using client = await openWebSocket(`${running.url}/ws`);
  const stream = await waitFor(
    () => running.streams[0],
    (found) => found !== undefined,
  );
  expect(stream?.send('{"a":1}')).toBe(true);
  await client.until((messages) => messages.length === 1);
  expect(client.messages).toEqual([{ a: 1 }]);
  await stream?.drained();
  expect(stream?.bufferedBytes).toBe(0);
  stream?.close(1008, 'policy');
  expect(await client.closed).toEqual({ code: 1008, reason: 'policy' });
  expect(stream?.send('late')).toBe(false);
  await waitFor(() => running.record('http.request', (each) => each.path === '/ws'), Boolean);
  expect(running.record('http.request')).toMatchObject({ status: 101, stream: true });
});

it('cuts a peer that does not answer pings, and keeps one that does', async () => {
  await using running = await sockets({ pingMs: 300 });
  const answering = await openWebSocket(`${running.url}/ws`);
  const stream = await waitFor(
    () => running.streams[0],
    (found) => found !== undefined,
  );
  await new Promise((resolve) => setTimeout(resolve, 3500));
  expect(stream?.closed.aborted).toBe(false);
  await answering.close();
  await waitFor(() => stream?.closed.aborted, Boolean);

  // A peer that upgraded and then says nothing, not even pong.
  const silent = running.raw(
    'GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n',
  );
  expect(await silent).toContain('101 Switching Protocols');
  expect(running.streams[1]?.closed.reason).toBe('slow');
});

it('refuses an upgrade from a foreign origin, to nowhere, and cuts a message that is too large', async () => {
  await using running = await sockets();
  const refused = openWebSocket(`${running.url}/ws`, { headers: { origin: 'https://evil.example' } });
  await expect(refused).rejects.toMatchObject({ status: 403 });
  await expect(openWebSocket(`${running.url}/nowhere`)).rejects.toBeInstanceOf(SocketRefused);
  expect((await fetch(`${running.url}/ws`)).status).toBe(404);
  await using client = await openWebSocket(`${running.url}/ws`);
  client.send('x'.repeat(70_000));
  expect((await client.closed).code).toBe(1009);
});
