import { type TopicDefinition, topicList } from '@signalbox/contracts/topics';
import { fault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { Admin } from 'kafkajs';
import { createKafka, singleTry } from './kafka-client.ts';
import type { KafkaSettings } from './messaging-settings.ts';

export interface CreateTopicsOptions {
  readonly settings: KafkaSettings;
  readonly log: Logger;
  /** All of the release by default. */
  readonly topics?: readonly TopicDefinition[];
  /** −1 takes the broker's default. */
  readonly replicationFactor?: number;
  /** How long to wait for a broker that is starting. Default 30 000. */
  readonly timeoutMs?: number;
}

const ledBoundMs = 10_000;

/**
 * Makes the topics that are missing; idempotent. A partition count is never changed in place: it would move keys to
 * other partitions behind the back of every order (delivery rule 21).
 * @throws CONFIG_INVALID when a topic has another partition count, WRONG_CLUSTER, KAFKA_UNAVAILABLE after timeoutMs.
 */
export async function createTopics(options: CreateTopicsOptions): Promise<{ created: string[] }> {
  const { settings, log } = options;
  const wanted = options.topics ?? topicList;
  const end = performance.now() + (options.timeoutMs ?? 30_000);
  for (;;) {
    const admin = createKafka(settings, 'signalbox-topics', log, singleTry).admin();
    try {
      await admin.connect();
      const created = await createMissing(admin, settings, wanted, options.replicationFactor ?? -1);
      log.info('topics.ready', { created: created.length, total: wanted.length });
      return { created };
    } catch (error) {
      if (error instanceof Error && error.name === 'Fault') throw error;
      if (performance.now() >= end)
        throw fault('KAFKA_UNAVAILABLE', 'the topics could not be made', { cause: error });
      await pause(250);
    } finally {
      await admin.disconnect().catch(() => undefined);
    }
  }
}

async function createMissing(
  admin: Admin,
  settings: KafkaSettings,
  wanted: readonly TopicDefinition[],
  replicationFactor: number,
): Promise<string[]> {
  const { clusterId } = await admin.describeCluster();
  if (settings.kafkaClusterId !== undefined && clusterId !== settings.kafkaClusterId) {
    throw fault(
      'WRONG_CLUSTER',
      `the broker belongs to cluster ${clusterId}, not to ${settings.kafkaClusterId}`,
    );
  }
  const named = (topic: TopicDefinition) => settings.kafkaTopicPrefix + topic.name;
  const there = new Set(await admin.listTopics());
  const missing = wanted.filter((topic) => !there.has(named(topic)));
  if (missing.length > 0) {
    await admin.createTopics({
      waitForLeaders: true,
      topics: missing.map((topic) => ({
        topic: named(topic),
        numPartitions: topic.partitions,
        replicationFactor,
        configEntries: configOf(topic),
      })),
    });
  }
  await Promise.all(missing.map((topic) => untilLed(admin, named(topic))));
  const { topics: found } = await admin.fetchTopicMetadata({ topics: wanted.map(named) });
  const counts = new Map(found.map(({ name, partitions }) => [name, partitions.length]));
  refuseOtherCounts(wanted, (topic) => counts.get(named(topic)));
  return missing.map(named);
}

/**
 * Waits until the brokers serve every partition. Metadata names a leader before that broker knows of its office; who
 * sends or fetches in between is refused (NOT_LEADER), and a batch over several partitions is then sent twice.
 */
async function untilLed(admin: Admin, name: string): Promise<void> {
  const end = performance.now() + ledBoundMs;
  for (;;) {
    try {
      await admin.fetchTopicOffsets(name);
      return;
    } catch (error) {
      if (performance.now() >= end) throw error;
      await pause(20);
    }
  }
}

/** @throws CONFIG_INVALID naming every topic whose partition count is not the table's. Missing topics pass. */
export function refuseOtherCounts(
  wanted: readonly TopicDefinition[],
  countOf: (topic: TopicDefinition) => number | undefined,
): void {
  const wrong = wanted.flatMap((topic) => {
    const count = countOf(topic);
    if (count === undefined || count === topic.partitions) return [];
    return [{ path: topic.name, message: `has ${count} partitions, not ${topic.partitions}` }];
  });
  if (wrong.length > 0) {
    throw fault('CONFIG_INVALID', 'topics have another partition count; a count is never changed in place', {
      errors: wrong,
    });
  }
}

function configOf(topic: TopicDefinition): { name: string; value: string }[] {
  return [
    { name: 'max.message.bytes', value: String(topic.maxMessageBytes) },
    // kafkajs reads gzip alone: one batch that somebody else has compressed with zstd, snappy or lz4 ends its consumer,
    // every time. The broker unpacks what comes packed; ours does not.
    { name: 'compression.type', value: 'uncompressed' },
    topic.compacted
      ? { name: 'cleanup.policy', value: 'compact' }
      : { name: 'retention.ms', value: String(topic.retentionMs) },
  ];
}
