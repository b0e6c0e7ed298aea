import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import type { MemoryStore } from './memory-store.ts';

const readEveryMs = 2_000;
/** An older figure would say that nothing changes while the database is away. */
const staleAfterMs = 30_000;

export interface Backlog {
  /** A few seconds old; undefined while it cannot be read. */
  current(): { readonly waiting: number; readonly failed: number } | undefined;
  stop(): void;
}

/** Keeps `memory_sync_backlog` and `memory_sync_failed`. */
export function watchBacklog(store: Pick<MemoryStore, 'backlog'>, log: Logger, metrics: Metrics): Backlog {
  let read: { readonly waiting: number; readonly failed: number; readonly at: number } | undefined;
  let reading = false;
  const look = () => {
    if (reading) return;
    reading = true;
    store
      .backlog()
      .then(
        (found) => {
          read = { ...found, at: performance.now() };
        },
        (error: unknown) => log.debug('memory.backlog_unknown', { error }),
      )
      .finally(() => {
        reading = false;
      });
  };
  const current = () => (read !== undefined && performance.now() - read.at < staleAfterMs ? read : undefined);
  metrics.gauge(
    'memory_sync_backlog',
    { help: 'Versions of memories that were taken and are not in memory.wal yet: waiting or failed.' },
    () => {
      const found = current();
      return found === undefined ? undefined : found.waiting + found.failed;
    },
  );
  metrics.gauge(
    'memory_sync_failed',
    { help: 'Those of them that the memory backend has not taken in all their tries.' },
    () => current()?.failed,
  );
  look();
  const timer = setInterval(look, readEveryMs).unref();
  return { current, stop: () => clearInterval(timer) };
}
