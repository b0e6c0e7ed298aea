import type { WebSocket } from '@fastify/websocket';
import type { FastifyRequest } from 'fastify';

export interface SocketStreamOptions {
  /** A ping goes out this often; a peer that has answered none of two is cut. 15 000 ms. */
  readonly pingMs?: number;
  /** A reader that lets more than this wait for it is cut. 1 MiB. */
  readonly maxBufferedBytes?: number;
}

export interface SocketStream {
  /** Sends one text message. False when the socket has ended, or is cut by this message because its reader is too slow. */
  send(text: string): boolean;
  /** Resolves when nothing waits for the network any more, or the socket has ended. */
  drained(): Promise<void>;
  /** Closes with a code of RFC 6455, 7.4 (1000 done, 1008 policy, 1013 try again later). */
  close(code?: number, reason?: string): void;
  readonly closed: AbortSignal;
  readonly bufferedBytes: number;
}

/** How long a peer may take to answer a close before its socket is cut. */
const closeTimeoutMs = 2000;

/** Puts a WebSocket under the same rules as an event stream: pings, a bound on what waits, 1001 on drain. */
export function openSocketStream(
  socket: WebSocket,
  request: FastifyRequest,
  options: SocketStreamOptions = {},
): SocketStream {
  const { pingMs = 15_000, maxBufferedBytes = 1024 * 1024 } = options;
  const registry = request.server.streams;
  const ended = new AbortController();
  let pingedAt = performance.now();
  let unanswered = 0;
  request.streamOpened();

  const end = (reason: string): void => {
    if (ended.signal.aborted) return;
    registry.remove(entry, reason);
    ended.abort(reason);
  };
  const close = (code: number, reason: string, why: string): void => {
    if (ended.signal.aborted) return;
    end(why);
    socket.close(code, reason);
    setTimeout(() => socket.terminate(), closeTimeoutMs).unref();
  };
  const cut = (): void => {
    end('slow');
    socket.terminate();
  };
  const entry = {
    sweep(now: number): void {
      if (now - pingedAt < pingMs) return;
      if (unanswered >= 2) {
        cut();
        return;
      }
      pingedAt = now;
      unanswered += 1;
      socket.ping();
    },
    drain: () => close(1001, 'the server is stopping', 'drain'),
    destroy: () => socket.terminate(),
  };

  socket.on('pong', () => {
    unanswered = 0;
  });
  socket.once('close', () => end('client'));
  socket.on('error', () => end('client'));
  registry.add(entry);
  if (registry.draining) entry.drain();

  return {
    send(text) {
      if (ended.signal.aborted || socket.readyState !== socket.OPEN) return false;
      socket.send(text);
      if (socket.bufferedAmount <= maxBufferedBytes) return true;
      cut();
      return false;
    },
    async drained() {
      while (!ended.signal.aborted && socket.bufferedAmount > 0) {
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    },
    close: (code = 1000, reason = '') => close(code, reason, 'server'),
    closed: ended.signal,
    get bufferedBytes() {
      return socket.bufferedAmount;
    },
  };
}
