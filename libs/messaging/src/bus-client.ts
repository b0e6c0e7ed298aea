import type { Logger } from '@signalbox/telemetry/telemetry';
import type { BatchOutcome, FetchedBatch } from './fetched-batch.ts';
import type { KafkaSettings } from './messaging-settings.ts';
import type { PlainRecord, Receipt } from './outgoing.ts';

/**
 * The port to a Kafka client: all that the rest of messaging knows of it. test/conformance says what it must hold, and
 * how another client is put under it.
 */
export interface BusClient {
  openProducer(options: ProducerClientOptions): ProducerClient;
  openMember(options: MemberOptions): Member;
}

/** A record with its place. */
export interface PlacedRecord extends PlainRecord {
  readonly partition: number;
}

/** One connection that sends batches. What is behind it is exchangeable; the rules of order are in `producer.ts`. */
export interface ProducerClient {
  /**
   * One try to send these records with acks from all replicas, in their order within each partition. Resolves with a
   * receipt for each, rejects when any was not acknowledged (others may be in the log: a repeat). What the broker
   * answered stands on the error or a cause of it as `code` (Kafka's number) and `type` (its name).
   */
  send(records: readonly PlacedRecord[]): Promise<Receipt[]>;
  close(): Promise<void>;
}

export interface ProducerClientOptions {
  readonly settings: KafkaSettings;
  readonly clientId: string;
  readonly log: Logger;
  /** Throws when the broker is not the right one, or not there. */
  ensureCluster(): Promise<void>;
}

/** What one life of a consumer tells its subscription. */
export interface MemberListener {
  joined(partitions: readonly number[]): void;
  revoked(partitions: readonly number[]): void;
  /** The client has given up. It is not started again by itself. `retriable: true` on an error that passes by itself. */
  crashed(error: unknown): void;
  process(batch: FetchedBatch): Promise<BatchOutcome>;
}

export interface MemberOptions {
  readonly settings: KafkaSettings;
  /** With its prefix. */
  readonly topic: string;
  readonly partitions: number;
  readonly group: string;
  readonly clientId: string;
  readonly maxWaitMs: number;
  readonly log: Logger;
  readonly listener: MemberListener;
}

/** One life of a consumer in its group, as a subscription drives it. */
export interface Member {
  /** Records in the log that are not finished, as of the last fetch. */
  lag(): number;
  /** When a fetch was last answered, by the broker that has been silent for longest; monotonic milliseconds. */
  readonly lastFetchAt: number;
  readonly lastHeartbeatAt: number;
  /** While it waits for the others of its group to join. */
  readonly joining: boolean;
  /** Connects and begins to fetch from the committed offsets, a new group from the beginning. */
  start(): Promise<void>;
  assigned(): number[];
  seek(partition: number, offset: bigint): boolean;
  /** One try to commit what is finished, never for a partition that is not assigned, never of an older generation. */
  commit(): Promise<void>;
  stop(deadlineMs: number): Promise<void>;
  /** Tells and commits nothing from here on. */
  abandon(): void;
  disconnectLater(): void;
}
