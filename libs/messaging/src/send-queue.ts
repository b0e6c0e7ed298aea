import type { PlacedRecord } from './bus-client.ts';
import type { Sending } from './producer.ts';

/** Delivery rule 3. 6 000 small records for one partition were refused together: the bytes of a partition count by themselves. */
export const maxBatchRecords = 256;
export const maxBatchBytes = 4 * 1024 * 1024;
export const maxPartitionBytes = 512 * 1024;

/** One record that waits, with the place that its key decides. */
export interface Queued {
  readonly sending: Sending;
  readonly partition: number;
  /** Topic and partition in one word. */
  readonly place: string;
  /** Made at the first try. */
  record?: PlacedRecord;
}

/** The records that wait, and the next batch of them within the bounds. */
export class SendQueue {
  #waiting: Queued[] = [];

  get length(): number {
    return this.#waiting.length;
  }

  push(sending: Sending, partition: number): void {
    this.#waiting.push({ sending, partition, place: `${sending.topic} ${partition}` });
  }

  /**
   * Takes the next batch off the queue. A partition that has reached its bytes is passed over with all its later
   * records, so the order within it holds and the other partitions do not wait. A record over a bound goes alone.
   */
  take(): Queued[] {
    const batch: Queued[] = [];
    const left: Queued[] = [];
    const bytesOf = new Map<string, number>();
    const full = new Set<string>();
    let bytes = 0;
    let at = 0;
    for (; at < this.#waiting.length && batch.length < maxBatchRecords; at += 1) {
      const queued = this.#waiting[at];
      if (queued === undefined || queued.sending.withdrawn) continue;
      const { sending, place } = queued;
      const ofPlace = bytesOf.get(place) ?? 0;
      if (full.has(place) || (ofPlace > 0 && ofPlace + sending.bytes > maxPartitionBytes)) {
        full.add(place);
        left.push(queued);
        continue;
      }
      if (bytes > 0 && bytes + sending.bytes > maxBatchBytes) break;
      bytes += sending.bytes;
      bytesOf.set(place, ofPlace + sending.bytes);
      batch.push(queued);
    }
    this.#waiting =
      at === this.#waiting.length && left.length === 0 ? [] : left.concat(this.#waiting.slice(at));
    return batch;
  }
}
