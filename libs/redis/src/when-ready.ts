import { fault } from '@signalbox/faults/fault';
import type { Redis as Client } from 'ioredis';

/** Resolves when the connection takes commands; throws REDIS_UNAVAILABLE when it does not within `timeoutMs`. */
export function whenReady(client: Client, timeoutMs: number): Promise<void> {
  if (client.status === 'ready') return Promise.resolve();
  return new Promise((resolve, reject) => {
    const onReady = () => {
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(() => {
      client.off('ready', onReady);
      reject(fault('REDIS_UNAVAILABLE', 'Redis cannot be reached', { retryAfterMs: 1000 }));
    }, timeoutMs);
    client.once('ready', onReady);
  });
}
