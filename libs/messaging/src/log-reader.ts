import type { Logger } from '@signalbox/telemetry/telemetry';
import { withoutTrace } from '@signalbox/telemetry/trace';
import { createKafka, fewTries } from './kafka-client.ts';
import type { KafkaSettings } from './messaging-settings.ts';

/** Where a partition begins and ends, and what its group has committed of it; offsets are the next ones to handle. */
export interface PartitionPlace {
  readonly partition: number;
  readonly low: bigint;
  readonly high: bigint;
  readonly committed: bigint | undefined;
}

export interface RecordTime {
  readonly offset: bigint;
  readonly timestampMs: number;
}

/** Questions about a topic that need no membership in a group. Whatever a method throws, the reader is closed and left. */
export interface LogReader {
  places(): Promise<PartitionPlace[]>;
  /** The first record at that offset or behind it (offsets have gaps) below `high`; undefined when there is none. */
  firstFrom(partition: number, offset: bigint, high: bigint): Promise<RecordTime | undefined>;
  close(): Promise<void>;
}

/** The members of kafkajs' internal cluster that reading without a group needs: its consumers know no other way. */
interface Cluster {
  connect(): Promise<void>;
  disconnect(): Promise<void>;
  addTargetTopic(topic: string): Promise<void>;
  refreshMetadataIfNecessary(): Promise<void>;
  findLeaderForPartitions(topic: string, partitions: number[]): Record<string, number[]>;
  findBroker(node: { nodeId: string }): Promise<Broker>;
}

interface Broker {
  fetch(request: {
    readonly maxWaitTime: number;
    readonly minBytes: number;
    readonly maxBytes: number;
    readonly isolationLevel: number;
    readonly topics: readonly {
      readonly topic: string;
      readonly partitions: readonly {
        readonly partition: number;
        readonly fetchOffset: string;
        readonly maxBytes: number;
      }[];
    }[];
  }): Promise<{ readonly responses: readonly { readonly partitions: readonly FetchedPartition[] }[] }>;
}

interface FetchedPartition {
  readonly messages: readonly {
    readonly offset: string;
    readonly timestamp: string;
    readonly isControlRecord?: boolean;
  }[];
}

const readCommitted = 1;
/** The broker gives the first batch whole, however long it is. */
const smallestBytes = 1;
/** For batches that compaction has emptied: what is behind them must come along. */
const largerBytes = 1_048_576;
const maxFetches = 16;

export async function openLogReader(
  settings: KafkaSettings,
  wireTopic: string,
  group: string,
  log: Logger,
): Promise<LogReader> {
  const kafka = createKafka(settings, 'signalbox-log-reader', log, fewTries);
  const admin = kafka.admin();
  const cluster = clusterOf(kafka);

  async function fetched(partition: number, offset: bigint, maxBytes: number) {
    const [nodeId] = Object.keys(cluster.findLeaderForPartitions(wireTopic, [partition]));
    if (nodeId === undefined) throw new Error(`no leader of partition ${partition} is known`);
    const broker = await cluster.findBroker({ nodeId });
    const { responses } = await broker.fetch({
      ...{ maxWaitTime: 100, minBytes: 1, maxBytes, isolationLevel: readCommitted },
      topics: [{ topic: wireTopic, partitions: [{ partition, fetchOffset: offset.toString(), maxBytes }] }],
    });
    return responses[0]?.partitions[0]?.messages ?? [];
  }

  const reader: LogReader = {
    places: () =>
      withoutTrace(async () => {
        const [ends, [known]] = await Promise.all([
          admin.fetchTopicOffsets(wireTopic),
          admin.fetchOffsets({ groupId: group, topics: [wireTopic] }),
        ]);
        const committed = new Map(
          known?.partitions.map(({ partition, offset }) => [partition, BigInt(offset)]),
        );
        return ends.map(({ partition, low, high }) => {
          const offset = committed.get(partition) ?? -1n;
          return {
            ...{ partition, low: BigInt(low), high: BigInt(high) },
            committed: offset < 0n ? undefined : offset,
          };
        });
      }),
    firstFrom: (partition, offset, high) =>
      withoutTrace(async () => {
        await cluster.refreshMetadataIfNecessary();
        let from = offset;
        let bytes = smallestBytes;
        for (let tries = 0; tries < maxFetches && from < high; tries += 1) {
          const messages = await fetched(partition, from, bytes);
          const found = messages.find((each) => BigInt(each.offset) >= from && each.isControlRecord !== true);
          if (found !== undefined) {
            return { offset: BigInt(found.offset), timestampMs: Number(found.timestamp) };
          }
          const last = messages.at(-1);
          if (last !== undefined && BigInt(last.offset) >= from) from = BigInt(last.offset) + 1n;
          else if (bytes === largerBytes) return undefined;
          else bytes = largerBytes;
        }
        return undefined;
      }),
    async close() {
      await Promise.allSettled([admin.disconnect(), cluster.disconnect()]);
    },
  };
  try {
    await withoutTrace(async () => {
      await Promise.all([admin.connect(), cluster.connect()]);
      await cluster.addTargetTopic(wireTopic);
    });
    return reader;
  } catch (error) {
    await reader.close();
    throw error;
  }
}

/** kafkajs 2.2.4 makes its clusters by a method that only its own clients are meant to find. */
function clusterOf(kafka: object): Cluster {
  const name = Object.getOwnPropertySymbols(kafka).find(
    ({ description }) => description === 'private:Kafka:createCluster',
  );
  const create: unknown = name === undefined ? undefined : Reflect.get(kafka, name);
  if (typeof create !== 'function') throw new Error('this kafkajs makes its clusters otherwise');
  const cluster: Cluster = create({
    metadataMaxAge: 300_000,
    allowAutoTopicCreation: false,
    isolationLevel: readCommitted,
  });
  return cluster;
}
