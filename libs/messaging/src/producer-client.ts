import { fault } from '@signalbox/faults/fault';
import { withoutTrace } from '@signalbox/telemetry/trace';
import type { Producer } from 'kafkajs';
import type { PlacedRecord, ProducerClient, ProducerClientOptions } from './bus-client.ts';
import { createKafka, singleTry } from './kafka-client.ts';
import type { Receipt } from './outgoing.ts';

/**
 * kafkajs' producer, not idempotent: the idempotent one takes its sequence numbers back on any error and then gets sends
 * acknowledged that the log does not hold (issue 1005; delivery rule 1).
 */
export function openProducerClient({
  settings,
  clientId,
  log,
  ensureCluster,
}: ProducerClientOptions): ProducerClient {
  // No retries inside: kafkajs keeps the answers of the brokers over its tries of one send, so a partition whose leader
  // moves to a broker that has answered already is skipped and reported as sent. A fresh send has no such memory.
  const producer: Producer = createKafka(settings, clientId, log, singleTry).producer({
    idempotent: false,
    allowAutoTopicCreation: false,
    createPartitioner:
      () =>
      ({ message }) =>
        message.partition ?? 0,
    metadataMaxAge: 300_000,
  });
  let connected = false;

  async function connect(): Promise<void> {
    if (connected) return;
    await ensureCluster();
    await producer.connect();
    connected = true;
  }

  return {
    async send(records) {
      await connect();
      const byTopic = new Map<string, Wire[]>();
      for (const record of records) {
        const topic = settings.kafkaTopicPrefix + record.topic;
        const list = byTopic.get(topic);
        const wire = {
          key: record.key,
          value: record.value,
          headers: record.headers,
          partition: record.partition,
        };
        if (list === undefined) byTopic.set(topic, [wire]);
        else list.push(wire);
      }
      // instrumentation-kafkajs makes a span for every record below the active one and injects *that* context. A batch
      // holds records of many traces, each with its own traceparent in its headers: nothing may be active here.
      const answer = await withoutTrace(() =>
        producer.sendBatch({
          acks: -1,
          timeout: Math.max(settings.kafkaRequestTimeoutMs - 500, 500),
          topicMessages: [...byTopic].map(([topic, messages]) => ({ topic, messages })),
        }),
      );
      return receipts(records, settings.kafkaTopicPrefix, answer);
    },
    async close() {
      connected = false;
      await producer.disconnect();
    },
  };
}

interface Wire {
  readonly key: string;
  readonly value: Buffer | null;
  readonly headers: Record<string, string>;
  readonly partition: number;
}

/** Offsets by place: the base offset of the partition plus the place in the batch. Every partition must have answered. */
function receipts(
  records: readonly PlacedRecord[],
  prefix: string,
  answer: readonly { topicName: string; partition: number; errorCode: number; baseOffset?: string }[],
): Receipt[] {
  const next = new Map<string, bigint>();
  for (const { topicName, partition, baseOffset, errorCode } of answer) {
    if (errorCode === 0 && baseOffset !== undefined)
      next.set(`${topicName} ${partition}`, BigInt(baseOffset));
  }
  return records.map(({ topic, partition }) => {
    const place = `${prefix}${topic} ${partition}`;
    const offset = next.get(place);
    if (offset === undefined) throw fault('KAFKA_UNAVAILABLE', `no acknowledgement for ${place}`);
    next.set(place, offset + 1n);
    return { partition, offset };
  });
}
