import { fault } from '@signalbox/faults/fault';
import type { Lifecycle } from '@signalbox/lifecycle/lifecycle';
import { pause } from '@signalbox/lifecycle/pause';
import type { Board } from '@signalbox/readiness/board';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { healthPaths } from './health-routes.ts';
import type { StreamRegistry } from './stream-registry.ts';
import type { HttpServer } from './types.ts';

export interface Drain {
  /** Counts the request as open, or throws DRAINING once the server refuses. Health routes always pass. */
  admit(request: FastifyRequest, reply: FastifyReply): void;
  /** From the begin of the stop on a reply tells its client to close the connection and to take another replica. */
  partWith(reply: FastifyReply): void;
  /** Called with each scrape of /metrics before its text is made: the port waits for one that sees the end. */
  scraping(reply: FastifyReply): void;
  /** Requests being answered now; streams do not count. */
  readonly open: number;
}

/**
 * The stop of a server, in the order of the lifecycle: `/ready` says draining while everything is still served
 * (readiness, then the drain delay); new requests are refused and open ones end (intake); streams end (streams); the
 * health routes answer on until all other parts are closed, and a scraper that was here before has had `lastScrapeMs` to
 * see the last metrics (health-port).
 *
 * Kept connections are told to close by their next reply and are not cut while they idle: a request that was on its way
 * into a connection cut under it fails, and nobody can tell whether it had an effect.
 */
export function createDrain(parts: {
  server: HttpServer;
  streams: StreamRegistry;
  board: Board;
  lifecycle: Pick<Lifecycle, 'onStop' | 'stopEvent'>;
  lastScrapeMs: number;
}): Drain {
  const { server, streams, board, lifecycle, lastScrapeMs } = parts;
  let refusing = false;
  let open = 0;
  let onIdle: (() => void) | undefined;
  let scraped = false;
  let lastScrape: AbortController | undefined;

  lifecycle.onStop({
    name: 'http requests',
    phase: 'intake',
    run: (signal) => {
      refusing = true;
      if (open === 0) return;
      return new Promise<void>((resolve) => {
        onIdle = resolve;
        signal.addEventListener('abort', () => resolve(), { once: true });
      });
    },
  });
  lifecycle.onStop({
    name: 'http streams',
    phase: 'streams',
    timeoutMs: 6000,
    run: (signal) => streams.drain(signal),
  });
  lifecycle.onStop({
    name: 'http server',
    phase: 'health-port',
    timeoutMs: lastScrapeMs + 5000,
    run: async (signal) => {
      if (scraped) {
        lastScrape = new AbortController();
        await pause(lastScrapeMs, AbortSignal.any([signal, lastScrape.signal]));
      }
      streams.stop();
      board.stop();
      await server.close();
    },
  });

  return {
    admit(request, reply) {
      if (refusing && !healthPaths.has(request.routeOptions.url ?? '')) {
        reply.header('connection', 'close');
        throw fault('DRAINING', 'this replica is stopping', { retryAfterMs: 1000 });
      }
      open += 1;
      request.observed.onAnswered = () => {
        request.observed.onAnswered = undefined;
        open -= 1;
        if (open === 0) onIdle?.();
      };
    },
    partWith(reply) {
      if (lifecycle.stopEvent.aborted) reply.header('connection', 'close');
    },
    scraping(reply) {
      scraped = true;
      const last = lastScrape;
      if (last !== undefined) reply.raw.once('finish', () => last.abort());
    },
    get open() {
      return open;
    },
  };
}
