import { comparePositions, type StreamPosition } from '@signalbox/api/stream-id';
import type { SessionStreams } from '../src/session-stream.ts';
import type { StreamEvent } from '../src/stream-event.ts';

export interface BootTable {
  readonly boot: Map<number, string>;
  readonly reached: Map<number, StreamPosition>;
  /** Everything that was appended, in order. */
  readonly appended: StreamEvent[];
  readonly streams: Pick<SessionStreams, 'append' | 'standingOf' | 'markBoot'>;
}

/** `stream:boot` and `stream:reached`, as the scripts treat them. */
export function bootTable(): BootTable {
  const boot = new Map<number, string>();
  const reached = new Map<number, StreamPosition>();
  const appended: StreamEvent[] = [];
  const bootOf = (partition: number) => boot.get(partition) ?? '';
  const isBelow = (partition: number, at: StreamPosition | undefined) => {
    const stands = reached.get(partition);
    return at !== undefined && (stands === undefined || comparePositions(stands, at) < 0);
  };
  const reach = (partition: number, at: StreamPosition | undefined) => {
    if (at !== undefined && isBelow(partition, at)) reached.set(partition, at);
  };
  return {
    boot,
    reached,
    appended,
    streams: {
      async append(partition, expected, events, upTo) {
        if (bootOf(partition) !== expected.boot || isBelow(partition, expected.reached)) return false;
        appended.push(...events);
        reach(partition, upTo);
        return true;
      },
      standingOf: async (partition) => ({ boot: bootOf(partition), reached: reached.get(partition) }),
      async markBoot(partition, from, to, upTo) {
        if (bootOf(partition) !== from) return false;
        boot.set(partition, to);
        if (upTo === 'anew') reached.delete(partition);
        else reach(partition, upTo);
        return true;
      },
    },
  };
}
