import type { SessionStreams } from '../src/session-stream.ts';
import type { StreamEvent } from '../src/stream-event.ts';
import type { StreamPosition } from '../src/stream-id.ts';

export interface BootTable {
  readonly boot: Map<number, string>;
  readonly reached: Map<number, StreamPosition>;
  /** Everything that was appended, in order. */
  readonly appended: StreamEvent[];
  readonly streams: Pick<SessionStreams, 'append' | 'bootOf' | 'markBoot' | 'markReached'>;
}

/** `stream:boot` and `stream:reached`, as the scripts treat them. */
export function bootTable(): BootTable {
  const boot = new Map<number, string>();
  const reached = new Map<number, StreamPosition>();
  const appended: StreamEvent[] = [];
  const bootOf = (partition: number) => boot.get(partition) ?? '';
  return {
    boot,
    reached,
    appended,
    streams: {
      async append(partition, expected, events, upTo) {
        if (bootOf(partition) !== expected) return false;
        appended.push(...events);
        if (upTo !== undefined) reached.set(partition, upTo);
        return true;
      },
      bootOf: async (partition) => bootOf(partition),
      async markBoot(partition, from, to) {
        if (bootOf(partition) !== from) return false;
        boot.set(partition, to);
        return true;
      },
      markReached: async (partition, at) => void reached.set(partition, at),
    },
  };
}
