import { GroupMember, type MemberOptions } from './group-member.ts';
import type { PartitionOffsets } from './partition-offsets.ts';
import { openProducerClient, type ProducerClient, type ProducerClientOptions } from './producer-client.ts';

/** One life of a consumer in its group, as a subscription drives it. */
export interface Member {
  readonly offsets: Pick<PartitionOffsets, 'lag'>;
  /** Monotonic milliseconds. */
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

/** The port to a Kafka client: all that the rest of messaging knows of it. test/conformance says what it must hold. */
export interface BusClient {
  openProducer(options: ProducerClientOptions): ProducerClient;
  openMember(options: MemberOptions): Member;
}

export const kafkajsBus: BusClient = {
  openProducer: openProducerClient,
  openMember: (options) => new GroupMember(options),
};
