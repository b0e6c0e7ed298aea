import { isFault } from '@signalbox/faults/fault';

const tries = 3;

/** A replica that stops refuses what it has not begun (DRAINING), so that another one can be asked: it is, at once. */
export async function askAgain<T>(ask: () => Promise<T>): Promise<T> {
  for (let left = tries - 1; ; left -= 1) {
    try {
      return await ask();
    } catch (error) {
      if (!isFault(error, 'DRAINING') || left === 0) throw error;
    }
  }
}
