import type { RawRecord } from './decode-record.ts';

/** Records of one partition as they were fetched, and what may be told about them. */
export interface FetchedBatch {
  readonly partition: number;
  readonly records: readonly RawRecord[];
  /** All before this offset has had its effect. Ignored once the partition is no longer this member's. */
  finish(nextOffset: bigint): void;
  /** Whether the partition is still this member's and nobody has sought elsewhere. */
  isCurrent(): boolean;
  /** Keeps the membership alive in a long batch; false when the group wants to rebalance, and then it is time to return. */
  heartbeat(): Promise<boolean>;
}

/**
 * - `done`: every record is finished, or the batch is no longer current.
 * - `away`: a store is away; what is not finished comes again after a pause.
 */
export type BatchOutcome = { readonly kind: 'done' } | { readonly kind: 'away'; readonly error: unknown };

/** Handles the batches of a subscription. */
export interface BatchProcessor {
  /** Never throws; returns within seconds whatever happens. */
  process(batch: FetchedBatch): Promise<BatchOutcome>;
  /** Since when a handler hangs that nobody waits for any more (monotonic milliseconds); undefined while none does. */
  readonly hangingSince: number | undefined;
}
