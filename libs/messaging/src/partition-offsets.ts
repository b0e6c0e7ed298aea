/** What is known of one assigned partition. Offsets are the next to handle, as Kafka commits them. */
interface Partition {
  finished: bigint | undefined;
  committed: bigint | undefined;
  highWatermark: bigint;
}

export interface PendingCommit {
  readonly partition: number;
  readonly offset: bigint;
}

/**
 * Finished offsets of the partitions that are assigned in the current generation, and what of them is not committed yet.
 *
 * Pending commits die with their generation. A commit that outlived one would be sent under the next one's id for a
 * partition that another member has now, and the broker takes it: a group went from 10 back to 3 that way.
 */
export class PartitionOffsets {
  #partitions = new Map<number, Partition>();

  /** A new generation: forgets everything, and then knows these partitions. */
  assign(partitions: readonly number[]): void {
    this.#partitions = new Map(
      partitions.map((partition) => [
        partition,
        { finished: undefined, committed: undefined, highWatermark: 0n },
      ]),
    );
  }

  revokeAll(): void {
    this.#partitions.clear();
  }

  isAssigned(partition: number): boolean {
    return this.#partitions.has(partition);
  }

  assigned(): number[] {
    return [...this.#partitions.keys()].sort((a, b) => a - b);
  }

  fetched(partition: number, firstOffset: bigint, highWatermark: bigint): void {
    const known = this.#partitions.get(partition);
    if (known === undefined) return;
    known.highWatermark = highWatermark;
    known.committed ??= firstOffset;
  }

  finish(partition: number, nextOffset: bigint): void {
    const known = this.#partitions.get(partition);
    if (known !== undefined) known.finished = nextOffset;
  }

  /** A seek: what was finished says nothing about the new place, and is not committed any more. */
  forget(partition: number): void {
    const known = this.#partitions.get(partition);
    if (known !== undefined) {
      known.finished = undefined;
      known.committed = undefined;
    }
  }

  pending(): PendingCommit[] {
    return [...this.#partitions].flatMap(([partition, { finished, committed }]) =>
      finished !== undefined && finished !== committed ? [{ partition, offset: finished }] : [],
    );
  }

  committed(commits: readonly PendingCommit[]): void {
    for (const { partition, offset } of commits) {
      const known = this.#partitions.get(partition);
      if (known !== undefined) known.committed = offset;
    }
  }

  /** Records that are in the log and not finished, as of the last fetch of each partition. */
  lag(): number {
    let lag = 0n;
    for (const { finished, committed, highWatermark } of this.#partitions.values()) {
      const at = finished ?? committed;
      if (at !== undefined && highWatermark > at) lag += highWatermark - at;
    }
    return Number(lag);
  }
}
