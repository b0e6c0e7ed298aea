import { waitFor } from '@signalbox/testkit/wait';
import type { Replica } from './replica.ts';

/** Memory that a process still needs after a forced collection, in bytes. */
export interface Held {
  readonly heap: number;
  /** Outside the heap: buffers. */
  readonly external: number;
}

/** What a replica must be started with so that `heldBy` can ask it. */
export const inspected = { NODE_OPTIONS: '--inspect=127.0.0.1:0' };

/** Forces a collection in the replica's process over the inspector, and reads what is left. */
export async function heldBy(replica: Replica): Promise<Held> {
  const address = await waitFor(
    () =>
      replica.process.noise.map((line) => /ws:\/\/\S+/.exec(line)?.[0]).find((found) => found !== undefined),
    (found): found is string => found !== undefined,
    { label: `the inspector of ${replica.name}` },
  );
  const socket = new WebSocket(address);
  const answers = new Map<number, (result: unknown) => void>();
  socket.addEventListener('message', ({ data }) => {
    const { id, result }: { id?: number; result?: unknown } = JSON.parse(String(data));
    if (id !== undefined) answers.get(id)?.(result);
  });
  await new Promise((resolve, reject) => {
    socket.addEventListener('open', resolve, { once: true });
    socket.addEventListener('error', () => reject(new Error(`no inspector at ${address}`)), { once: true });
  });
  let last = 0;
  const ask = (method: string, params: object = {}): Promise<unknown> => {
    last += 1;
    const { promise, resolve } = Promise.withResolvers<unknown>();
    answers.set(last, resolve);
    socket.send(JSON.stringify({ id: last, method, params }));
    return promise;
  };
  // Twice: what only finalizers held goes with the second.
  await ask('HeapProfiler.collectGarbage');
  await ask('HeapProfiler.collectGarbage');
  const answer = await ask('Runtime.evaluate', {
    expression: 'JSON.stringify([process.memoryUsage().heapUsed, process.memoryUsage().external])',
    returnByValue: true,
  });
  socket.close();
  const [heap = Number.NaN, external = Number.NaN] = numbersIn(answer);
  return { heap, external };
}

function numbersIn(answer: unknown): number[] {
  const text = /\[(\d+),(\d+)\]/.exec(JSON.stringify(answer));
  return text === null ? [] : text.slice(1).map(Number);
}
