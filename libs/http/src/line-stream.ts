import type { FastifyReply } from 'fastify';
import type { StreamEnd } from './event-stream.ts';

export interface LineStreamOptions {
  /** A reader that takes nothing of what waits for it in this time is cut. 30 000 ms. */
  readonly maxStallMs?: number;
}

export interface LineStream {
  /** Sends values, one line of JSON each, and resolves when they have left for the network or the stream has ended. */
  send(values: readonly object[]): Promise<void>;
  /** Sends a last line and ends the reply. */
  end(last: object): void;
  /** Cuts the connection: the reader must not take what it has for the whole. */
  cut(): void;
  /** Aborts when the stream has ended, by whoever. */
  readonly closed: AbortSignal;
}

/**
 * Turns the reply into lines of JSON (application/x-ndjson). Who sends waits for each `send`, so that no more than one of
 * them is in memory. A stop of the server cuts it: it has no place to come back to.
 */
export function openLineStream(reply: FastifyReply, options: LineStreamOptions = {}): LineStream {
  const { maxStallMs = 30_000 } = options;
  const { raw, request } = reply;
  const { streams } = reply.server;
  const ended = new AbortController();
  /** When what waits now began to wait; undefined while nothing does. */
  let stalledSince: number | undefined;

  reply.header('content-type', 'application/x-ndjson; charset=utf-8');
  reply.header('cache-control', 'no-store, no-transform');
  reply.hijack();
  for (const [name, value] of Object.entries(reply.getHeaders()))
    if (value !== undefined) raw.setHeader(name, value);
  raw.writeHead(200);
  request.streamOpened();

  const over = (reason: StreamEnd): void => {
    if (ended.signal.aborted) return;
    streams.remove(entry, reason);
    ended.abort(reason);
  };
  const cut = (reason: StreamEnd): void => {
    over(reason);
    raw.destroy();
  };
  const entry = {
    sweep(now: number): void {
      if (stalledSince !== undefined && now - stalledSince > maxStallMs) cut('slow');
    },
    drain: () => cut('drain'),
    destroy: () => void raw.destroy(),
  };
  raw.on('drain', () => {
    stalledSince = undefined;
  });
  raw.once('close', () => over('client'));
  raw.on('error', () => over('client'));
  streams.add(entry);
  if (raw.destroyed) over('client');
  // One that opens while the server ends its streams would be found by nobody.
  if (streams.draining) cut('drain');

  return {
    send(values) {
      if (ended.signal.aborted || values.length === 0) return Promise.resolve();
      if (raw.write(values.map((value) => `${JSON.stringify(value)}\n`).join(''))) return Promise.resolve();
      stalledSince = performance.now();
      return new Promise((resolve) => {
        const done = () => {
          raw.off('drain', done);
          ended.signal.removeEventListener('abort', done);
          resolve();
        };
        raw.once('drain', done);
        ended.signal.addEventListener('abort', done, { once: true });
      });
    },
    end(last) {
      if (ended.signal.aborted) return;
      over('server');
      raw.end(`${JSON.stringify(last)}\n`);
    },
    cut: () => cut('server'),
    closed: ended.signal,
  };
}
