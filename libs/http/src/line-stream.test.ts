import { connect } from 'node:net';
import { waitFor } from '@signalbox/testkit/wait';
import { expect, it } from 'vitest';
import { type RunningServer, startServer } from '../test/running-server.ts';
import { type LineStream, type LineStreamOptions, openLineStream } from './line-stream.ts';

/** A server with one line stream, which the test writes to. */
async function streaming(options: LineStreamOptions = {}) {
  const streams: LineStream[] = [];
  const running: RunningServer = await startServer({
    routes: (server) => {
      server.get('/lines', (_request, reply) => {
        streams.push(openLineStream(reply, options));
      });
    },
  });
  const stream = () =>
    waitFor(
      () => streams[0],
      (found) => found !== undefined,
    );
  return Object.assign(running, { stream });
}

/** A client that has asked and reads nothing. */
function deaf(port: number) {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  socket.write('GET /lines HTTP/1.1\r\nhost: x\r\n\r\n');
  socket.pause();
  return socket;
}

const large = Array.from({ length: 100 }, () => ({ text: 'x'.repeat(10_000) }));

it('sends a line of JSON a value, then the last one', async () => {
  await using running = await streaming();
  const answer = fetch(`${running.url}/lines`);
  const stream = await running.stream();
  await stream?.send([{ n: 1 }, { text: 'a\nb' }]);
  await stream?.send([]);
  stream?.end({ end: true });
  const response = await answer;
  expect(response.headers.get('content-type')).toBe('application/x-ndjson; charset=utf-8');
  expect(response.headers.get('x-content-type-options')).toBe('nosniff');
  expect(await response.text()).toBe('{"n":1}\n{"text":"a\\nb"}\n{"end":true}\n');
  expect(stream?.closed.reason).toBe('server');
});

it('makes its sender wait for a reader that does not read, and cuts that in time', async () => {
  await using running = await streaming({ maxStallMs: 300 });
  const socket = deaf(running.port);
  const stream = await running.stream();
  let sent = 0;
  while (stream?.closed.aborted === false && sent < 1_000) {
    await stream.send(large);
    sent += 1;
  }
  expect(stream?.closed.reason).toBe('slow');
  expect(sent).toBeLessThan(50); // megabytes: what the kernel holds
  socket.destroy();
});

it.each([
  ['is cut', async (stream: LineStream) => stream.cut()],
  [
    'is under way at the stop',
    async (_: LineStream, running: RunningServer) => running.lifecycle.stop('test'),
  ],
])('does not end like a whole one when it %s', async (_, interrupt) => {
  const running = await streaming();
  const answer = fetch(`${running.url}/lines`);
  const stream = await running.stream();
  await stream?.send([{ n: 1 }]);
  const response = await answer;
  if (stream === undefined) throw new Error('no stream');
  const stopping = interrupt(stream, running);
  await expect(response.text()).rejects.toThrow();
  await stopping;
  expect(stream.closed.aborted).toBe(true);
  await running[Symbol.asyncDispose]();
});

it('tells its sender that the client is gone', async () => {
  await using running = await streaming();
  const socket = deaf(running.port);
  const stream = await running.stream();
  socket.destroy();
  await waitFor(() => stream?.closed.aborted, Boolean);
  expect(stream?.closed.reason).toBe('client');
  await stream?.send(large);
  expect(running.server.streams.size).toBe(0);
});
