import { sessionKey } from '@signalbox/contracts/keys';
import { topics } from '@signalbox/contracts/topics';
import { partitionOf } from '@signalbox/messaging/murmur2';
import { Kafka, logLevel } from 'kafkajs';
import type { Cell, Reading } from '../cell.ts';
import { openPoster, type Poster } from '../client.ts';
import { bounded, type Conversation, openConversation } from '../conversation.ts';
import { latencyOf } from '../measure.ts';
import { type BenchStack, startFloor } from '../stack.ts';

const fastSessions = 20;
const slowMs = 5000;
const fastTurnsEach = 5;

/** B13: one session waits 5 s for its model while 20 others of the same partition go on. */
export function headOfLineCell(options: { stack: BenchStack; pairs: number }): Cell {
  return {
    id: 'B13',
    title: `head of line: ${fastSessions} sessions beside one ${slowMs / 1000} s model call in their partition`,
    pairs: options.pairs,
    settle: () => options.stack.settle(),
    variants: [
      { name: 'signalbox', run: () => runProduct(options.stack) },
      { name: 'floor: plain eachMessage', run: () => runEachMessage(options.stack.kafka) },
    ],
    aims: [{ figure: 'p99Ms', bound: '<=', value: 12 }],
  };
}

async function runProduct(stack: BenchStack): Promise<Reading> {
  const poster = openPoster(stack.gatewayUrl, stack.apiKey, 32);
  const talks = await sessionsOfOnePartition(stack, poster, fastSessions + 1);
  const [slow, ...fast] = talks;
  if (slow === undefined) throw new Error('no session for the slow turn');
  await stack.modelFaults({ match: 'slow one', times: 1, firstTokenMs: slowMs });
  const slowDone = slow.say('the slow one', 60_000);
  // One after the other: the figure is the wait behind the slow turn, not behind each other.
  for (let turn = 0; turn < fastTurnsEach; turn += 1) for (const talk of fast) await talk.say('hello there');
  await slowDone;
  for (const talk of talks) talk.close();
  await poster.close();
  const { p50Ms, p99Ms } = latencyOf(fast.flatMap((talk) => talk.check.firstDeltasMs));
  const slowFirst = slow.check.firstDeltasMs[0] ?? Number.NaN;
  const faults = talks.flatMap((talk) => talk.check.faults);
  if (!(slowFirst >= slowMs)) faults.push(`the slow turn's first delta came after ${slowFirst} ms`);
  return { figures: { p50Ms, p99Ms, slowMs: slowFirst }, faults };
}

/** Session ids are the gateway's, so sessions are made until enough of them share a partition. */
async function sessionsOfOnePartition(
  stack: BenchStack,
  poster: Poster,
  count: number,
): Promise<Conversation[]> {
  const partitions = topics['conversation.inbound'].partitions;
  const byPartition = new Map<number, Conversation[]>();
  for (;;) {
    const talk = await openConversation(stack.gatewayUrl, stack.apiKey, poster, {
      bare: false,
      firstMessage: 'hello',
    });
    const partition = partitionOf(sessionKey(stack.tenant, talk.sessionId), partitions);
    const list = byPartition.get(partition) ?? [];
    byPartition.set(partition, [...list, talk]);
    if (list.length + 1 === count) {
      for (const [other, rest] of byPartition) if (other !== partition) for (const each of rest) each.close();
      return [...list, talk];
    }
  }
}

async function runEachMessage(bootstrap: string): Promise<Reading> {
  const topic = `floor.each.${crypto.randomUUID().slice(0, 8)}`;
  const kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.NOTHING });
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic, numPartitions: 1 }] });
  const producer = kafka.producer({ allowAutoTopicCreation: false });
  await producer.connect();
  const latencies: number[] = [];
  const done = Promise.withResolvers<void>();
  const floor = await startFloor(
    'each-message',
    { KAFKA_BOOTSTRAP_SERVERS: bootstrap, FLOOR_TOPIC: topic },
    (line) => {
      if (line.event !== 'record.done') return;
      if (line.id !== 'slow') latencies.push(Number(line.ms));
      if (latencies.length === fastSessions * fastTurnsEach) done.resolve();
    },
  );
  const send = (id: string, waitMs: number) =>
    producer.send({ topic, messages: [{ value: JSON.stringify({ id, waitMs, sentAt: Date.now() }) }] });
  await send('slow', slowMs);
  for (let index = 0; index < fastSessions * fastTurnsEach; index += 1) await send(`fast-${index}`, 0);
  await bounded(done.promise, 60_000, 'the floor of eachMessage');
  await floor.close();
  await producer.disconnect();
  await admin.deleteTopics({ topics: [topic] });
  await admin.disconnect();
  const { p50Ms, p99Ms } = latencyOf(latencies);
  return { figures: { p50Ms, p99Ms }, faults: [] };
}
