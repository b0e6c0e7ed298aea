import { fault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { withoutTrace } from '@signalbox/telemetry/trace';
import type { Consumer } from './consumer.ts';
import { createKafka, singleTry } from './kafka-client.ts';
import type { KafkaSettings } from './messaging-settings.ts';

export interface SeekBackOptions {
  readonly settings: KafkaSettings;
  readonly consumer: Pick<Consumer, 'group' | 'topic' | 'seek'>;
  readonly partition: number;
  readonly timestampMs: number;
  /** The consumer goes on here or before, whatever the time of that record. */
  readonly notAfter?: bigint | undefined;
  readonly log: Logger;
}

/**
 * Sends a consumer back, never forward, to the first record at or after a time: where the group has committed less than
 * that, to what it has committed. Answers where it goes on and the offset behind the last record of this moment.
 * @throws KAFKA_UNAVAILABLE when no broker answers, or the partition is no longer assigned here.
 */
export async function seekBack(
  options: SeekBackOptions,
): Promise<{ readonly from: bigint; readonly end: bigint }> {
  const { settings, consumer, partition, timestampMs, log } = options;
  const topic = settings.kafkaTopicPrefix + consumer.topic;
  const admin = createKafka(settings, 'signalbox-seek', log, singleTry).admin();
  try {
    const place = await withoutTrace(async () => {
      await admin.connect();
      // One after the other: until an answer has told it the brokers, kafkajs finds no coordinator ("no brokers in the pool").
      const ends = await admin.fetchTopicOffsets(topic);
      const atTime = await admin.fetchTopicOffsetsByTimestamp(topic, timestampMs);
      const committed = await admin.fetchOffsets({ groupId: consumer.group, topics: [topic] });
      const end = ends.find((each) => each.partition === partition);
      const time = atTime.find((each) => each.partition === partition);
      if (end === undefined || time === undefined) throw new Error(`partition ${partition} has no offsets`);
      const done = committed[0]?.partitions.find((each) => each.partition === partition)?.offset ?? '-1';
      // A group that has committed nothing yet stands at the beginning.
      const standing = BigInt(done) < 0n ? BigInt(end.low) : BigInt(done);
      const from = [standing, BigInt(time.offset), options.notAfter ?? standing].reduce((a, b) =>
        a < b ? a : b,
      );
      return { from: from < BigInt(end.low) ? BigInt(end.low) : from, end: BigInt(end.high) };
    });
    if (!consumer.seek(partition, place.from)) throw new Error(`partition ${partition} is not assigned here`);
    return place;
  } catch (error) {
    throw fault('KAFKA_UNAVAILABLE', 'the consumer could not be sent back', { cause: error });
  } finally {
    await admin.disconnect().catch(() => undefined);
  }
}
