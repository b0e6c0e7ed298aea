import { fault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { withoutTrace } from '@signalbox/telemetry/trace';
import type { Admin } from 'kafkajs';
import { createKafka, singleTry } from './kafka-client.ts';
import type { KafkaSettings } from './messaging-settings.ts';

/** Knows whether the broker is there, is the right one, and has the topics. One admin connection, used by all. */
export interface ClusterGuard {
  /**
   * Asks for the cluster id, once until it has answered rightly.
   * @throws WRONG_CLUSTER for a broker of another cluster than KAFKA_CLUSTER_ID, KAFKA_UNAVAILABLE without an answer.
   */
  ensure(): Promise<void>;
  /**
   * Metadata of these topics, asked for now: partitions by topic (without prefix).
   * @throws KAFKA_UNAVAILABLE when no broker answers or a topic is missing (details.reason 'topics').
   */
  metadata(topics: readonly string[]): Promise<ReadonlyMap<string, number>>;
  /** The names (without prefix) of the topics that are there. @throws KAFKA_UNAVAILABLE, WRONG_CLUSTER. */
  topicNames(): Promise<ReadonlySet<string>>;
  close(): Promise<void>;
}

const askBoundMs = 3_000;

export function createClusterGuard(settings: KafkaSettings, clientId: string, log: Logger): ClusterGuard {
  let admin: Admin | undefined;
  let checked: Promise<void> | undefined;

  async function connected(): Promise<Admin> {
    if (admin === undefined) {
      const fresh = createKafka(settings, clientId, log, singleTry).admin();
      await fresh.connect();
      admin = fresh;
    }
    return admin;
  }

  // kafkajs' admin does not come back from every loss of its connection: after a failure the next question gets a new one.
  async function ask<T>(question: (admin: Admin) => Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error('no answer in time')), askBoundMs);
    });
    try {
      return await Promise.race([withoutTrace(async () => question(await connected())), late]);
    } catch (error) {
      if (isUnknownTopic(error)) {
        throw fault('KAFKA_UNAVAILABLE', 'the broker has not all topics', {
          cause: error,
          details: { reason: 'topics' },
        });
      }
      const broken = admin;
      admin = undefined;
      broken?.disconnect().catch(() => undefined);
      throw fault('KAFKA_UNAVAILABLE', 'no broker answered', { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }

  async function check(): Promise<void> {
    const { clusterId } = await ask((asked) => asked.describeCluster());
    const wanted = settings.kafkaClusterId;
    if (wanted !== undefined && clusterId !== wanted) {
      throw fault('WRONG_CLUSTER', `the broker belongs to cluster ${clusterId}, not to ${wanted}`, {
        details: { clusterId, wanted },
      });
    }
  }

  return {
    ensure() {
      checked ??= check().catch((error: unknown) => {
        checked = undefined;
        throw error;
      });
      return checked;
    },
    async metadata(topics) {
      await this.ensure();
      const prefix = settings.kafkaTopicPrefix;
      const { topics: found } = await ask((asked) =>
        asked.fetchTopicMetadata({ topics: topics.map((topic) => prefix + topic) }),
      );
      return new Map(found.map(({ name, partitions }) => [name.slice(prefix.length), partitions.length]));
    },
    async topicNames() {
      await this.ensure();
      const prefix = settings.kafkaTopicPrefix;
      const names = await ask((asked) => asked.listTopics());
      return new Set(
        names.filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length)),
      );
    },
    async close() {
      const open = admin;
      admin = undefined;
      await open?.disconnect();
    },
  };
}

function isUnknownTopic(error: unknown): boolean {
  return error instanceof Error && 'type' in error && error.type === 'UNKNOWN_TOPIC_OR_PARTITION';
}
