import { connect } from 'node:net';
import { openSse } from '@signalbox/testkit/sse';
import { waitFor } from '@signalbox/testkit/wait';
import { describe, expect, it } from 'vitest';
import { type RunningServer, startServer } from '../test/running-server.ts';
import { type EventStream, type EventStreamOptions, encodeEvent, openEventStream } from './event-stream.ts';
import { securityHeaders } from './security-headers.ts';
import { createStreamRegistry } from './stream-registry.ts';

interface Streaming extends RunningServer {
  /** The streams that were opened, in order. */
  readonly streams: EventStream[];
}

async function streaming(options: EventStreamOptions = {}): Promise<Streaming> {
  const streams: EventStream[] = [];
  const running = await startServer({
    settings: { corsOrigins: ['https://app.example'] },
    routes: (server) => {
      server.get('/events', (_request, reply) => {
        streams.push(openEventStream(reply, options));
      });
    },
  });
  return Object.assign(running, { streams });
}

describe('encodeEvent', () => {
  it.each([
    [{ data: '{"a":1}' }, 'data: {"a":1}\n\n'],
    [{ id: '1-2', event: 'assistant.delta', data: 'x' }, 'id: 1-2\nevent: assistant.delta\ndata: x\n\n'],
    [{ data: 'a\nb\r\nc\rd' }, 'data: a\ndata: b\ndata: c\ndata: d\n\n'],
    [{ data: '' }, 'data: \n\n'],
    [{ id: 'x\ndata: forged', event: 'e\0', data: '' }, 'id: x data: forged\nevent: e \ndata: \n\n'],
  ])('%j', (event, text) => {
    expect(encodeEvent(event)).toBe(text);
  });
});

describe('openEventStream', () => {
  it('sends headers and the retry hint at once, then events and comments', async () => {
    await using running = await streaming({ retryMs: 1234 });
    await using client = await openSse(`${running.url}/events`, {
      headers: { origin: 'https://app.example', 'x-request-id': 'r1' },
    });
    expect(client.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    expect(client.headers.get('cache-control')).toContain('no-store');
    expect(client.headers.get('x-request-id')).toBe('r1');
    expect(client.headers.get('access-control-allow-origin')).toBe('https://app.example');
    expect(client.headers.get('x-content-type-options')).toBe(securityHeaders['x-content-type-options']);
    const [stream] = running.streams;
    stream?.send({ id: '1', event: 'a', data: '{"n":1}' });
    stream?.comment('still\nhere');
    stream?.sendEncoded(encodeEvent({ id: '2', event: 'b', data: '2' }));
    await client.until((events) => events.length === 2);
    expect(client.events.map((each) => [each.id, each.event])).toEqual([
      ['1', 'a'],
      ['2', 'b'],
    ]);
    expect(client.retryMs()).toBe(1234);
    expect(client.comments).toEqual(['still here']);
    await stream?.drained();
    expect(stream?.bufferedBytes).toBe(0);
  });

  it('ends when the client leaves, and is logged and counted then', async () => {
    await using running = await streaming();
    const client = await openSse(`${running.url}/events`, { headers: { 'x-request-id': 'left' } });
    expect(running.server.streams.size).toBe(1);
    await client.close();
    const [stream] = running.streams;
    await waitFor(() => stream?.closed.aborted, Boolean);
    expect(stream?.closed.reason).toBe('client');
    expect(stream?.send({ data: 'late' })).toBe(false);
    expect(running.server.streams.size).toBe(0);
    await waitFor(() => running.record('http.request', (each) => each.request_id === 'left'), Boolean);
    expect(running.record('http.request')).toMatchObject({ status: 200, stream: true });
    expect(await running.telemetry.metricsText()).toMatch(
      /http_streams_ended_total\{[^}]*reason="client"[^}]*\} 1/,
    );
  });

  it('ends cleanly when the server closes it, with a hint when to come back', async () => {
    await using running = await streaming();
    await using client = await openSse(`${running.url}/events`);
    running.streams[0]?.close(777);
    expect(await client.ended).toBe('server');
    expect(client.retryMs()).toBe(777);
    expect(running.streams[0]?.closed.reason).toBe('server');
  });

  it('keeps an idle stream alive with comments', async () => {
    await using running = await streaming({ keepAliveMs: 500 });
    await using client = await openSse(`${running.url}/events`);
    await waitFor(
      () => client.comments.length,
      (count) => count >= 2,
      { label: 'two keepalives' },
    );
    expect(client.comments[0]).toBe('keepalive');
  });

  it('cuts a reader that does not read, at its bound, and says so', async () => {
    await using running = await streaming({ maxBufferedBytes: 200_000 });
    const socket = connect(running.port, '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write('GET /events HTTP/1.1\r\nhost: x\r\n\r\n');
    socket.pause();
    const stream = await waitFor(
      () => running.streams[0],
      (found) => found !== undefined,
    );
    const event = encodeEvent({ id: '1', data: 'x'.repeat(10_000) });
    let sent = 0;
    // Until the kernel's buffers are full too; each turn of the loop lets the socket write.
    while (stream?.sendEncoded(event) === true && sent < 5000) {
      sent += 1;
      if (sent % 10 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    expect(stream?.closed.reason).toBe('slow');
    expect(sent).toBeLessThan(5000);
    await waitFor(
      () => running.telemetry.metricsText(),
      (text) => /reason="slow"/.test(text),
    );
    socket.destroy();
  });

  it('cuts a reader that takes nothing of what waits for it in time', async () => {
    await using running = await streaming({ maxBufferedBytes: 100_000_000, maxStallMs: 300 });
    const socket = connect(running.port, '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write('GET /events HTTP/1.1\r\nhost: x\r\n\r\n');
    socket.pause();
    const stream = await waitFor(
      () => running.streams[0],
      (found) => found !== undefined,
    );
    for (let sent = 0; sent < 1000; sent += 1) stream?.send({ data: 'x'.repeat(10_000) });
    await waitFor(() => stream?.closed.aborted, Boolean, { label: 'the cut' });
    expect(stream?.closed.reason).toBe('slow');
    socket.destroy();
  });

  it('answers HEAD with the headers alone', async () => {
    await using running = await streaming();
    const response = await fetch(`${running.url}/events`, { method: 'HEAD' });
    expect(response.headers.get('content-type')).toContain('text/event-stream');
    expect(running.server.streams.size).toBe(0);
  });
});

describe('the stream registry', () => {
  it('spreads the end of many streams over time and their return over five seconds', async () => {
    const registry = createStreamRegistry(() => undefined);
    const ends: { atMs: number; retry: number }[] = [];
    const startedAt = performance.now();
    for (let n = 0; n < 200; n += 1) {
      registry.add({
        sweep: () => undefined,
        destroy: () => undefined,
        drain: (retry) => void ends.push({ atMs: performance.now() - startedAt, retry }),
      });
    }
    await registry.drain(new AbortController().signal);
    expect(ends).toHaveLength(200);
    expect(Math.max(...ends.map((each) => each.atMs))).toBeGreaterThan(250);
    expect(
      Math.max(...ends.map((each) => each.retry)) - Math.min(...ends.map((each) => each.retry)),
    ).toBeGreaterThan(2000);
    registry.stop();
  });

  it('ends all at once when its bound has passed', async () => {
    const registry = createStreamRegistry(() => undefined);
    let ended = 0;
    for (let n = 0; n < 2000; n += 1) {
      registry.add({
        sweep: () => undefined,
        destroy: () => undefined,
        drain: () => {
          ended += 1;
        },
      });
    }
    await registry.drain(AbortSignal.abort());
    expect(ended).toBe(2000);
    registry.stop();
  });
});
