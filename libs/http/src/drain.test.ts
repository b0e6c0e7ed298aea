import { connect } from 'node:net';
import { openSse } from '@signalbox/testkit/sse';
import { waitFor } from '@signalbox/testkit/wait';
import { openWebSocket } from '@signalbox/testkit/websocket';
import { expect, it } from 'vitest';
import { startServer } from '../test/running-server.ts';
import { openEventStream } from './event-stream.ts';
import type { HttpServer } from './types.ts';
import { openSocketStream } from './web-socket.ts';

const gate = Promise.withResolvers<void>();
const finish = Promise.withResolvers<void>();

function routes(server: HttpServer): void {
  server.get('/quick', () => ({ ok: true }));
  server.get('/slow', async () => {
    gate.resolve();
    await finish.promise;
    return { ok: true };
  });
  server.get('/events', (_request, reply) => {
    openEventStream(reply).send({ id: '1', event: 'a', data: '{}' });
  });
  server.get('/socket', { websocket: true }, (socket, request) => {
    openSocketStream(socket, request).send('hello');
  });
}

it('serves on while the delay lasts, then refuses, lets open requests end, ends streams, and keeps health to the last', async () => {
  await using running = await startServer({ routes, drainDelayMs: 300 });
  running.board.markStarted();
  const get = (path: string) => fetch(running.url + path);
  const stream = await openSse(`${running.url}/events`);
  await stream.event((event) => event.id === '1');
  const socket = await openWebSocket(`${running.url}/socket`);
  await socket.until((messages) => messages.length === 1);
  const slow = get('/slow');
  await gate.promise;
  const beforeStreams = Promise.withResolvers<void>();
  running.lifecycle.onStop({
    name: 'hold',
    phase: 'audit',
    timeoutMs: 5000,
    run: () => beforeStreams.promise,
  });
  const beforePort = Promise.withResolvers<void>();
  running.lifecycle.onStop({
    name: 'hold pools',
    phase: 'pools',
    timeoutMs: 5000,
    run: () => beforePort.promise,
  });
  const stopped = running.lifecycle.stop('test');

  // readiness says draining at once, and requests are served for the delay
  expect(await (await get('/ready')).json()).toMatchObject({ status: 'draining', reason: 'draining' });
  expect((await get('/quick')).status).toBe(200);

  const refused = await waitFor(
    () => get('/quick'),
    (response) => response.status === 503,
  );
  expect(refused.headers.get('retry-after')).toBe('1');
  expect(refused.headers.get('connection')).toBe('close');
  expect(await refused.json()).toMatchObject({ error_code: 'DRAINING' });
  expect((await get('/nothing')).status).toBe(503);
  expect((await get('/live')).status).toBe(200);

  // the request under way is answered, then the phase is over
  finish.resolve();
  expect((await slow).status).toBe(200);

  // streams live until their phase, then end cleanly with a hint
  expect(running.server.streams.size).toBe(2);
  beforeStreams.resolve();
  expect(await stream.ended).toBe('server');
  expect(stream.retryMs()).toBeGreaterThanOrEqual(250);
  expect(stream.retryMs()).not.toBe(2000);
  expect(await socket.closed).toMatchObject({ code: 1001 });

  // all else is closed, health still answers; then nothing does
  expect((await get('/health')).status).toBe(200);
  beforePort.resolve();
  await stopped;
  await expect(get('/live')).rejects.toThrow();
});

it('stops within its bound though a request never ends and a connection sends nothing', async () => {
  const arrived = Promise.withResolvers<void>();
  const running = await startServer({
    routes: (server) => {
      server.get('/never', () => {
        arrived.resolve();
        return new Promise(() => undefined);
      });
    },
  });
  const silent = connect(running.port, '127.0.0.1');
  await new Promise((resolve) => silent.once('connect', resolve));
  const never = fetch(`${running.url}/never`).catch((error: unknown) => error);
  await arrived.promise;
  const startedAt = performance.now();
  await running.lifecycle.stop('test');
  expect(performance.now() - startedAt).toBeLessThan(6500);
  expect(await never).toBeInstanceOf(Error);
  const step = running.record('shutdown.step', (each) => each.step === 'http requests');
  expect(step).toMatchObject({ outcome: 'overran' });
  silent.destroy();
});
