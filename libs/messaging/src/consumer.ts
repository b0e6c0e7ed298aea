import type { SourceTopicName } from '@signalbox/contracts/topics';

/** A running consumer as its service sees it. */
export interface Consumer {
  readonly topic: SourceTopicName;
  readonly group: string;
  /** Partitions that this instance reads now. */
  assigned(): number[];
  /** Goes on at another offset; false when the partition is not assigned here. */
  seek(partition: number, offset: bigint): boolean;
  /** Seeks every assigned partition to its first record at or after that time. Resolves with the partitions that moved. */
  seekToTime(timestampMs: number): Promise<number[]>;
  /**
   * Looks once a second, until the stop, how old the oldest record is that the whole group has not handled; reads the
   * last answer: seconds, 0 when there is none, undefined before the first. Grows also while nobody reads (`oldest-unread.ts`).
   */
  watchUnread(): () => number | undefined;
  /** Throws KAFKA_UNAVAILABLE when it is not a live member of its group, TIMEOUT while a handler hangs. For probes. */
  probe(): void;
  /** Ends handlers, commits, leaves the group; within `deadlineMs` (5 000). */
  stop(deadlineMs?: number): Promise<void>;
}
