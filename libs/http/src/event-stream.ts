import type { FastifyReply } from 'fastify';
import type { StreamRegistry } from './stream-registry.ts';

/** One event of a stream. `data` goes out as it is: text, usually JSON. */
export interface StreamEvent {
  readonly id?: string;
  readonly event?: string;
  readonly data: string;
}

export interface EventStreamOptions {
  /** What the client waits before it connects again after a cut; sent first. 2 000 ms. */
  readonly retryMs?: number;
  /** A comment goes out when nothing else did for this long. 15 000 ms. */
  readonly keepAliveMs?: number;
  /** A reader that lets more than this wait for it is cut, and resumes by Last-Event-ID. 1 MiB. */
  readonly maxBufferedBytes?: number;
  /** A reader that takes nothing of what waits for it in this time is cut. 30 000 ms. */
  readonly maxStallMs?: number;
}

export type StreamEnd = 'client' | 'server' | 'away' | 'drain' | 'slow';

export interface EventStream {
  /** Sends one event. False when the stream has ended, or is cut by this very event because its reader is too slow. */
  send(event: StreamEvent): boolean;
  /** Sends what `encodeEvent` made: one encoding for many streams. */
  sendEncoded(bytes: string): boolean;
  comment(text: string): boolean;
  /** Resolves when what was sent has left for the network, or the stream has ended: for a replay that pages through. */
  drained(): Promise<void>;
  /** Ends it cleanly; `retryMs` tells the client when to come back. */
  close(retryMs?: number): void;
  /** Ends it cleanly and its connection with it, so that the client, after `retryMs`, may reach another replica. */
  sendAway(retryMs: number): void;
  /** Aborts when the stream has ended, by whoever. */
  readonly closed: AbortSignal;
  readonly bufferedBytes: number;
}

/**
 * One event in the form of the HTML standard, 9.2.6. A line break in data would end the field, so each line is a field
 * of its own; in id and event it cannot be told at all and is taken out.
 */
export function encodeEvent({ id, event, data }: StreamEvent): string {
  let text = '';
  if (id !== undefined) text += `id: ${oneLine(id)}\n`;
  if (event !== undefined) text += `event: ${oneLine(event)}\n`;
  if (lineBreak.test(data)) for (const line of data.split(lineBreak)) text += `data: ${line}\n`;
  else text += `data: ${data}\n`;
  return `${text}\n`;
}

const lineBreak = /\r\n|\n|\r/;

function oneLine(text: string): string {
  return /[\r\n\0]/.test(text) ? text.replace(/[\r\n\0]+/g, ' ') : text;
}

/**
 * Turns the reply into an event stream: headers at once (with those that hooks have set: request id, security, CORS),
 * `retry:` first, comments while idle, an end on drain. The handler returns right after; the stream lives until the
 * client leaves, `close` is called, the server drains or the reader is too slow.
 *
 * Raw and not @fastify/sse: that plugin holds a timer a stream, awaits `drain` without bound (a reader that stopped
 * reading holds its sender for ever and its events in memory), and writes each event anew for each stream.
 */
export function openEventStream(reply: FastifyReply, options: EventStreamOptions = {}): EventStream {
  return startStream(reply, reply.server.streams, options);
}

function startStream(
  reply: FastifyReply,
  registry: StreamRegistry,
  options: EventStreamOptions,
): EventStream {
  const {
    retryMs = 2000,
    keepAliveMs = 15_000,
    maxBufferedBytes = 1024 * 1024,
    maxStallMs = 30_000,
  } = options;
  const { raw, request } = reply;
  const ended = new AbortController();
  let lastWriteAt = performance.now();
  /** When what waits now began to wait; undefined while nothing does. */
  let stalledSince: number | undefined;

  reply.header('content-type', 'text/event-stream; charset=utf-8');
  reply.header('cache-control', 'no-store, no-transform');
  reply.header('x-accel-buffering', 'no'); // nginx would collect events
  reply.hijack();
  for (const [name, value] of Object.entries(reply.getHeaders()))
    if (value !== undefined) raw.setHeader(name, value);
  raw.writeHead(200);
  raw.socket?.setNoDelay(true);
  request.streamOpened();

  const end = (reason: StreamEnd): void => {
    if (ended.signal.aborted) return;
    registry.remove(entry, reason);
    ended.abort(reason);
  };

  const write = (text: string): boolean => {
    if (ended.signal.aborted) return false;
    lastWriteAt = performance.now();
    if (raw.write(text)) {
      stalledSince = undefined;
      return true;
    }
    stalledSince ??= lastWriteAt;
    if (buffered(raw) <= maxBufferedBytes) return true;
    cut();
    return false;
  };

  const cut = (): void => {
    end('slow');
    raw.destroy();
  };

  const close = (retry: number | undefined, reason: StreamEnd): void => {
    if (ended.signal.aborted) return;
    end(reason);
    // A client that came back on this connection would meet the replica that has just sent it away.
    const { socket } = raw;
    if (reason === 'drain' || reason === 'away') raw.once('finish', () => socket?.end());
    raw.end(retry === undefined ? undefined : `retry: ${Math.round(retry)}\n\n`);
  };

  const entry = {
    sweep(now: number): void {
      if (stalledSince !== undefined) {
        if (now - stalledSince > maxStallMs) cut();
      } else if (now - lastWriteAt >= keepAliveMs) write(': keepalive\n\n');
    },
    drain: (retry: number) => close(retry, 'drain'),
    destroy: () => void raw.destroy(),
  };

  raw.on('drain', () => {
    stalledSince = undefined;
  });
  raw.once('close', () => end('client'));
  raw.on('error', () => end('client'));
  registry.add(entry);
  if (request.method === 'HEAD' || raw.destroyed) close(undefined, 'server');
  else write(`retry: ${Math.round(retryMs)}\n\n`);
  // A stream that opens while the server ends its streams would be found by nobody.
  if (registry.draining) close(retryMs, 'drain');

  return {
    send: (event) => write(encodeEvent(event)),
    sendEncoded: write,
    comment: (text) => write(`: ${oneLine(text)}\n\n`),
    drained: () =>
      new Promise((resolve) => {
        if (ended.signal.aborted || !raw.writableNeedDrain) return resolve();
        const done = () => {
          raw.off('drain', done);
          ended.signal.removeEventListener('abort', done);
          resolve();
        };
        raw.once('drain', done);
        ended.signal.addEventListener('abort', done, { once: true });
      }),
    close: (retry) => close(retry, 'server'),
    sendAway: (retry) => close(retry, 'away'),
    closed: ended.signal,
    get bufferedBytes() {
      return buffered(raw);
    },
  };
}

/** What waits in the reply and in its socket. */
function buffered(raw: FastifyReply['raw']): number {
  return Math.max(raw.writableLength, raw.socket?.writableLength ?? 0);
}
