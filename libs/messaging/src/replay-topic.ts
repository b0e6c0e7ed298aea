import { randomBytes } from 'node:crypto';
import type { SourceTopicName } from '@signalbox/contracts/topics';
import { fault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { withoutTrace } from '@signalbox/telemetry/trace';
import { decodeRecord, type IntakeRecord } from './decode-record.ts';
import { createKafka, fewTries, patientRetry } from './kafka-client.ts';
import type { KafkaSettings } from './messaging-settings.ts';

export interface ReplayOptions {
  readonly settings: KafkaSettings;
  readonly topic: SourceTopicName;
  /**
   * Records of one partition, in offset order. Nothing more of the topic is read before it resolves; what it throws ends
   * the replay. Records may come again after the connection was lost.
   */
  readonly onRecords: (records: readonly IntakeRecord[]) => Promise<void>;
  /** Records a call at most. Default 2 000. */
  readonly maxBatch?: number;
  readonly signal: AbortSignal;
  readonly log: Logger;
}

export interface Replayed {
  readonly records: number;
  /** Records that no consumer can read: they have their dead letters from when they were consumed. */
  readonly unreadable: number;
}

/** Longer than a broker takes to fail over. */
const silentMs = 60_000;

/**
 * Hands over everything that a topic holds at the moment of the call, from its beginning, whatever its size. In a group
 * of its own that is deleted afterwards: nobody's offsets move.
 * @throws KAFKA_UNAVAILABLE when nothing comes for a minute, ABORTED, or what `onRecords` throws.
 */
export async function replayTopic(options: ReplayOptions): Promise<Replayed> {
  const { settings, topic, onRecords, signal, log } = options;
  const maxBatch = options.maxBatch ?? 2_000;
  const wireTopic = settings.kafkaTopicPrefix + topic;
  const groupId = `${settings.kafkaTopicPrefix}replay-${randomBytes(6).toString('hex')}`;
  const admin = createKafka(settings, 'signalbox-replay', log, fewTries).admin();
  const consumer = createKafka(settings, 'signalbox-replay', log, patientRetry).consumer({
    groupId,
    maxWaitTimeInMs: 100,
    allowAutoTopicCreation: false,
  });
  let records = 0;
  let unreadable = 0;
  const ended = Promise.withResolvers<void>();
  ended.promise.catch(() => undefined);
  const onAbort = () => ended.reject(fault('ABORTED', 'the replay was ended', { cause: signal.reason }));
  let silence = setTimeout(onSilence, silentMs);

  function onSilence(): void {
    ended.reject(fault('KAFKA_UNAVAILABLE', `nothing of ${topic} has come for ${silentMs / 1_000} s`));
  }

  async function handOver(partition: number, messages: Parameters<typeof decoded>[2]): Promise<void> {
    for (let at = 0; at < messages.length; at += maxBatch) {
      if (signal.aborted) return;
      const some = messages.slice(at, at + maxBatch);
      const readable = decoded(topic, partition, some);
      records += some.length;
      unreadable += some.length - readable.length;
      if (readable.length > 0) await onRecords(readable);
      clearTimeout(silence);
      silence = setTimeout(onSilence, silentMs);
    }
  }

  try {
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    await admin.connect();
    const ends = await admin.fetchTopicOffsets(wireTopic);
    const left = new Map(
      ends.filter(({ low, high }) => low !== high).map(({ partition, high }) => [partition, BigInt(high)]),
    );
    if (left.size === 0) return { records, unreadable };
    await withoutTrace(async () => {
      await consumer.connect();
      await consumer.subscribe({ topic: wireTopic, fromBeginning: true });
      await consumer.run({
        autoCommit: false,
        eachBatchAutoResolve: false,
        eachBatch: async ({ batch, resolveOffset, heartbeat }) => {
          // What is thrown here would only be tried again inside kafkajs.
          try {
            await handOver(batch.partition, batch.messages);
            resolveOffset(batch.lastOffset());
            if (BigInt(batch.lastOffset()) + 1n >= (left.get(batch.partition) ?? 0n))
              left.delete(batch.partition);
            if (left.size === 0) ended.resolve();
          } catch (error) {
            ended.reject(error);
          }
          await heartbeat().catch(() => undefined);
        },
      });
    });
    await ended.promise;
    signal.throwIfAborted();
    return { records, unreadable };
  } finally {
    clearTimeout(silence);
    signal.removeEventListener('abort', onAbort);
    await consumer.disconnect().catch(() => undefined);
    await admin.deleteGroups([groupId]).catch(() => undefined);
    await admin.disconnect().catch(() => undefined);
  }
}

function decoded(
  topic: SourceTopicName,
  partition: number,
  messages: readonly {
    readonly offset: string;
    readonly key: Buffer | null;
    readonly value: Buffer | null;
    readonly headers?: Parameters<typeof decodeRecord>[2]['headers'];
    readonly timestamp: string;
  }[],
): IntakeRecord[] {
  return messages.flatMap(({ offset, key, value, headers, timestamp }) => {
    const raw = {
      offset: BigInt(offset),
      key,
      value,
      headers: headers ?? {},
      timestampMs: Number(timestamp),
    };
    const found = decodeRecord(topic, partition, raw, undefined);
    return found.kind === 'record' ? [found.record] : [];
  });
}
