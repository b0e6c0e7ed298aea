import type { Database } from '@signalbox/postgres/database';
import { notifyGivenUp } from './outbox-sql.ts';

const everyMs = 100;

/**
 * Tells the relay that rows were given up, at most every 100 ms. The relay's poll is the guarantee; this only wakes it. By
 * itself, outside any transaction: a NOTIFY in them cost two thirds of the commits.
 */
export function createGivenUpNotice(database: Database): { soon(): void; close(): void } {
  let last = Number.NEGATIVE_INFINITY;
  let timer: NodeJS.Timeout | undefined;
  return {
    soon() {
      if (timer !== undefined) return;
      const waitMs = Math.max(0, last + everyMs - performance.now());
      timer = setTimeout(() => {
        timer = undefined;
        last = performance.now();
        notifyGivenUp(database).catch(() => undefined);
      }, waitMs).unref();
    },
    close() {
      clearTimeout(timer);
      timer = undefined;
    },
  };
}
