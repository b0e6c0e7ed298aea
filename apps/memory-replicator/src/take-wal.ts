import { failPoint } from '@signalbox/lifecycle/fail-point';
import type { AppendHandler } from '@signalbox/messaging/messaging';
import type { ReplicaStore } from './replica-store.ts';

/**
 * Intake of memory.wal: records of a partition become rows of the replica, one statement for all of them. The row and its
 * version are the inbox: what comes again, or late, changes nothing. Partitions go beside each other, for no memory is in
 * two of them.
 */
export function takeWal(
  store: Pick<ReplicaStore, 'take'>,
  onTaken: (changed: number) => void,
): AppendHandler {
  return async (records) => {
    const changed = await store.take(records);
    failPoint('intake.committed');
    if (changed > 0) onTaken(changed);
  };
}
