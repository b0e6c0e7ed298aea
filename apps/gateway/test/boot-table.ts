import type { SessionStreams } from '../src/session-stream.ts';
import type { StreamEvent } from '../src/stream-event.ts';
import { comparePositions, type StreamPosition } from '../src/stream-id.ts';

export interface BootTable {
  readonly boot: Map<number, string>;
  readonly reached: Map<number, StreamPosition>;
  /** Everything that was appended, in order. */
  readonly appended: StreamEvent[];
  readonly streams: Pick<SessionStreams, 'append' | 'bootOf' | 'markBoot'>;
}

/** `stream:boot` and `stream:reached`, as the scripts treat them. */
export function bootTable(): BootTable {
  const boot = new Map<number, string>();
  const reached = new Map<number, StreamPosition>();
  const appended: StreamEvent[] = [];
  const bootOf = (partition: number) => boot.get(partition) ?? '';
  const reach = (partition: number, at: StreamPosition | undefined) => {
    const before = reached.get(partition);
    if (at !== undefined && (before === undefined || comparePositions(before, at) < 0))
      reached.set(partition, at);
  };
  return {
    boot,
    reached,
    appended,
    streams: {
      async append(partition, expected, events, upTo) {
        if (bootOf(partition) !== expected) return false;
        appended.push(...events);
        reach(partition, upTo);
        return true;
      },
      bootOf: async (partition) => bootOf(partition),
      async markBoot(partition, from, to, upTo) {
        if (bootOf(partition) !== from) return false;
        boot.set(partition, to);
        reach(partition, upTo);
        return true;
      },
    },
  };
}
