/**
 * A worker as kafkajs' own examples write it: the slow call awaited in eachMessage. FLOOR_TOPIC holds one slow record
 * ({"waitMs": 5000}) among fast ones; prints one line a finished record with the time since it was produced.
 */
import { Kafka, logLevel } from 'kafkajs';

const kafka = new Kafka({ brokers: [process.env.KAFKA_BOOTSTRAP_SERVERS ?? ''], logLevel: logLevel.NOTHING });
const consumer = kafka.consumer({
  groupId: `floor-each-message-${process.pid}`,
  allowAutoTopicCreation: false,
});
await consumer.connect();
await consumer.subscribe({ topics: [process.env.FLOOR_TOPIC ?? ''], fromBeginning: true });
consumer.on(consumer.events.GROUP_JOIN, () =>
  console.log(JSON.stringify({ event: 'service.started', port: 0 })),
);
await consumer.run({
  eachMessage: async ({ message }) => {
    const { id, waitMs, sentAt }: { id: string; waitMs: number; sentAt: number } = JSON.parse(
      message.value?.toString() ?? '{}',
    );
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    console.log(JSON.stringify({ event: 'record.done', id, ms: Date.now() - sentAt }));
  },
});
