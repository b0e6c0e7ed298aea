import { fault } from '@signalbox/faults/fault';
import type { Lifecycle } from '@signalbox/lifecycle/lifecycle';
import type { Board } from '@signalbox/readiness/board';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { healthPaths } from './health-routes.ts';
import type { StreamRegistry } from './stream-registry.ts';
import type { HttpServer } from './types.ts';

export interface Drain {
  /** Counts the request as open, or throws DRAINING once the server refuses. Health routes always pass. */
  admit(request: FastifyRequest, reply: FastifyReply): void;
  /** Requests being answered now; streams do not count. */
  readonly open: number;
}

/**
 * The stop of a server, in the order of the lifecycle: `/ready` says draining while everything is still served
 * (readiness, then the drain delay); new requests are refused and open ones end (intake); streams end (streams); the
 * health routes answer on until all other parts are closed (health-port).
 */
export function createDrain(parts: {
  server: HttpServer;
  streams: StreamRegistry;
  board: Board;
  lifecycle: Pick<Lifecycle, 'onStop'>;
}): Drain {
  const { server, streams, board, lifecycle } = parts;
  let refusing = false;
  let open = 0;
  let onIdle: (() => void) | undefined;

  lifecycle.onStop({
    name: 'http requests',
    phase: 'intake',
    run: (signal) => {
      refusing = true;
      server.server.closeIdleConnections();
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
    run: async () => {
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
    get open() {
      return open;
    },
  };
}
