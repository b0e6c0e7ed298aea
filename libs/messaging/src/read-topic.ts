import { randomBytes } from 'node:crypto';
import type { RecordHeaders } from '@signalbox/contracts/headers';
import type { TopicName } from '@signalbox/contracts/topics';
import { fault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { withoutTrace } from '@signalbox/telemetry/trace';
import { textHeaders } from './decode-record.ts';
import { createKafka, fewTries } from './kafka-client.ts';
import type { KafkaSettings } from './messaging-settings.ts';

export interface StoredRecord {
  readonly partition: number;
  readonly offset: bigint;
  readonly key: string | null;
  readonly headers: RecordHeaders;
  readonly value: Buffer | null;
}

export interface ReadAllOptions {
  readonly settings: KafkaSettings;
  readonly topic: TopicName;
  readonly log: Logger;
  /** Default 20 000. */
  readonly timeoutMs?: number;
}

/**
 * Everything that the topic holds at the moment of the call, in offset order within each partition, through a group that
 * is deleted afterwards: for tools and tests. @throws KAFKA_UNAVAILABLE after timeoutMs.
 */
export async function readAll({
  settings,
  topic,
  log,
  timeoutMs = 20_000,
}: ReadAllOptions): Promise<StoredRecord[]> {
  const kafka = createKafka(settings, 'signalbox-read', log, fewTries);
  const wireTopic = settings.kafkaTopicPrefix + topic;
  const groupId = `${settings.kafkaTopicPrefix}read-${randomBytes(6).toString('hex')}`;
  const admin = kafka.admin();
  const consumer = kafka.consumer({ groupId, maxWaitTimeInMs: 100, allowAutoTopicCreation: false });
  const records: StoredRecord[] = [];
  let timer: NodeJS.Timeout | undefined;
  try {
    await admin.connect();
    const ends = await admin.fetchTopicOffsets(wireTopic);
    const left = new Map(
      ends.filter(({ low, high }) => low !== high).map(({ partition, high }) => [partition, BigInt(high)]),
    );
    if (left.size === 0) return records;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    timer = setTimeout(
      () => reject(fault('KAFKA_UNAVAILABLE', `${topic} could not be read in time`)),
      timeoutMs,
    );
    await withoutTrace(async () => {
      await consumer.connect();
      await consumer.subscribe({ topic: wireTopic, fromBeginning: true });
      await consumer.run({
        autoCommit: false,
        eachBatch: async ({ batch: { partition, messages }, resolveOffset }) => {
          for (const { offset, key, headers, value } of messages) {
            const at = BigInt(offset);
            records.push({
              partition,
              offset: at,
              key: key?.toString() ?? null,
              headers: textHeaders(headers ?? {}),
              value,
            });
            if (at + 1n >= (left.get(partition) ?? 0n)) left.delete(partition);
            resolveOffset(offset);
          }
          if (left.size === 0) resolve();
        },
      });
    });
    await promise;
    return records;
  } finally {
    clearTimeout(timer);
    await consumer.disconnect().catch(() => undefined);
    await admin.deleteGroups([groupId]).catch(() => undefined);
    await admin.disconnect().catch(() => undefined);
  }
}
