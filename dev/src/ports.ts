import { connect, createServer } from 'node:net';
import { PartProblem } from './part-problem.ts';

const host = '127.0.0.1';
/** How far to look above a taken port. */
const reach = 100;
/** Below Linux's and macOS's range for outgoing connections: none of those can take a port between choice and use. */
const freeRange = { from: 20_000, to: 30_000 };

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen({ port, host, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/** Whether something answers there. On macOS one can bind 127.0.0.1 beside a listener on 0.0.0.0, so listening tells too little. */
export function answers(port: number, timeoutMs = 500): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host });
    const finish = (result: boolean) => {
      socket.destroy();
      resolve(result);
    };
    socket.setTimeout(timeoutMs, () => finish(false));
    socket.once('connect', () => finish(true));
    socket.once('error', () => finish(false));
  });
}

async function isFree(port: number): Promise<boolean> {
  return (await canListen(port)) && !(await answers(port));
}

/** Ports handed out by this process: two parts that start side by side must not be given the same one. */
const handedOut = new Set<number>();

/**
 * The preferred port on 127.0.0.1, or the next free one above it; without a preference (0) a free one.
 * The port is not held: who uses it should bind it soon.
 */
export async function pickPort(preferred: number): Promise<number> {
  const candidates =
    preferred === 0
      ? Array.from(
          { length: reach },
          () => freeRange.from + Math.floor(Math.random() * (freeRange.to - freeRange.from)),
        )
      : Array.from({ length: reach }, (_, step) => preferred + step);
  for (const port of candidates) {
    if (port > 65_535 || handedOut.has(port)) continue;
    // Claimed before the first await: two picks at once look at different ports.
    handedOut.add(port);
    if (await isFree(port)) return port;
    handedOut.delete(port);
  }
  throw new PartProblem(
    preferred === 0 ? 'no free port found' : `no free port from ${preferred} to ${preferred + reach - 1}`,
  );
}

/** Gives a port back after what listened there has ended. */
export function releasePort(port: number): void {
  handedOut.delete(port);
}
