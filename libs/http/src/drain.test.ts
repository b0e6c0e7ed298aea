import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { openSse } from '@signalbox/testkit/sse';
import { waitFor } from '@signalbox/testkit/wait';
import { openWebSocket } from '@signalbox/testkit/websocket';
import { describe, expect, it } from 'vitest';
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

/** A kept connection, byte by byte: what it got so far, and whether the server has closed it. */
async function keptConnection(port: number) {
  const socket: Socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  let got = '';
  socket.on('data', (piece) => {
    got += String(piece);
  });
  return {
    socket,
    closed: once(socket, 'close'),
    async ask(path: string, isWhole: (got: string) => boolean = (text) => text.includes('}')) {
      got = '';
      socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`);
      return waitFor(() => got.toLowerCase(), isWhole);
    },
  };
}

it('tells kept connections to close, with the reply to what was under way too, and cuts none that idles', async () => {
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  await using running = await startServer({
    drainDelayMs: 300,
    routes: (server) => {
      server.get('/quick', () => ({ ok: true }));
      server.get('/asked', async () => {
        asked.resolve();
        await answer.promise;
        return { ok: true };
      });
    },
  });
  const [early, busy, idle] = await Promise.all([1, 2, 3].map(() => keptConnection(running.port)));
  if (early === undefined || busy === undefined || idle === undefined) throw new Error('three connections');
  expect(await early.ask('/quick')).toContain('connection: keep-alive');
  expect(await idle.ask('/quick')).toContain('connection: keep-alive');
  const underWay = busy.ask('/asked');
  await asked.promise;

  const hold = Promise.withResolvers<void>();
  running.lifecycle.onStop({ name: 'hold', phase: 'pools', run: () => hold.promise });
  const stopped = running.lifecycle.stop('test');
  answer.resolve();
  expect(await underWay).toContain('connection: close');
  await busy.closed;
  const late = await early.ask('/quick');
  expect(late).toContain('200 ok');
  expect(late).toContain('connection: close');
  await early.closed;

  // Now it refuses. A request on its way into this connection would be lost if the connection were cut.
  const refused = await waitFor(
    () => fetch(`${running.url}/quick`),
    ({ status }) => status === 503,
  );
  await refused.arrayBuffer();
  const answered = await idle.ask('/quick');
  expect(answered).toContain('503 service unavailable');
  expect(answered).toContain('retry-after: 1');
  expect(answered).toContain('connection: close');
  await idle.closed;
  hold.resolve();
  await stopped;
});

it('closes the connection of a stream that it ended: the client must not come back on it', async () => {
  await using running = await startServer({ routes });
  const client = await keptConnection(running.port);
  await client.ask('/events', (got) => got.includes('id: 1'));
  const stopped = running.lifecycle.stop('test');
  await client.closed;
  await stopped;
});

describe('the last scrape', () => {
  const stopping = async (lastScrapeMs: number, scrapedBefore: boolean) => {
    const running = await startServer({ settings: { lastScrapeMs } });
    if (scrapedBefore) await (await fetch(`${running.url}/metrics`)).text();
    running.lifecycle.configure({
      drainDelayMs: 0,
      stopTimeoutMs: 20_000,
      log: running.telemetry.log,
      onStopped: ({ durationMs }) =>
        running.telemetry.metrics
          .histogram('service_shutdown_seconds', { help: 'h' })
          .record(durationMs / 1_000),
    });
    return running;
  };

  it('is waited for, sees how long the stop took, and ends the wait', async () => {
    const running = await stopping(15_000, true);
    const startedAt = performance.now();
    const stopped = running.lifecycle.stop('test');
    const text = await waitFor(
      async () => (await fetch(`${running.url}/metrics`)).text(),
      (metrics) => metrics.includes('service_shutdown_seconds_count'),
    );
    expect(text).toContain('service_shutdown_seconds_count{service="under-test"} 1');
    await stopped;
    expect(performance.now() - startedAt).toBeLessThan(5_000);
  });

  it('has its bound', async () => {
    const running = await stopping(300, true);
    const startedAt = performance.now();
    await running.lifecycle.stop('test');
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(290);
    expect(running.record('shutdown.step', ({ step }) => step === 'http server')?.outcome).toBe('done');
  });

  it('is not waited for where nobody scrapes', async () => {
    const running = await stopping(15_000, false);
    const startedAt = performance.now();
    await running.lifecycle.stop('test');
    expect(performance.now() - startedAt).toBeLessThan(5_000);
  });
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
