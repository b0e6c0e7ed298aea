import type { Logger } from '@signalbox/telemetry/telemetry';
import { withoutTrace } from '@signalbox/telemetry/trace';
import { createKafka, fewTries } from './kafka-client.ts';
import type { KafkaSettings } from './messaging-settings.ts';

/** The first offset at or after a time in every partition; the end where nothing is that young. */
export async function offsetsAtTime(
  settings: KafkaSettings,
  wireTopic: string,
  timestampMs: number,
  log: Logger,
): Promise<ReadonlyMap<number, bigint>> {
  const admin = createKafka(settings, 'signalbox-offsets', log, fewTries).admin();
  return withoutTrace(async () => {
    try {
      await admin.connect();
      const found = await admin.fetchTopicOffsetsByTimestamp(wireTopic, timestampMs);
      return new Map(found.map(({ partition, offset }) => [partition, BigInt(offset)]));
    } finally {
      await admin.disconnect().catch(() => undefined);
    }
  });
}
