import { createRequire } from 'node:module';
import { zstdCompressSync } from 'node:zlib';
import type { SourceTopicName } from '@signalbox/contracts/topics';
import type { Message } from 'kafkajs';
import type { Stack } from './stack.ts';

const require = createRequire(import.meta.url);

/**
 * The broker as seen past the port: records of any bytes, offsets of groups and partitions. Whatever client is under
 * test, this is another one.
 */

/** A record as somebody else's producer may send it. */
export interface WireRecord {
  readonly partition: number;
  readonly key: Buffer | string | null;
  readonly value: Buffer | string | null;
  /** A name may come twice. */
  readonly headers: readonly (readonly [name: string, value: Buffer | string])[];
  /** The producer's clock by default. */
  readonly timestampMs?: number;
}

/** Past these one request would be refused: the limit of a topic is that of all records of a partition in a request. */
const maxRequestBytes = 900_000;

/** Puts the records into the topic, in their order within each partition. Resolves with their offsets. */
export async function sendWire(
  stack: Stack,
  topic: SourceTopicName,
  records: readonly WireRecord[],
): Promise<bigint[]> {
  const producer = stack.kafka().producer({
    allowAutoTopicCreation: false,
    createPartitioner:
      () =>
      ({ message }) =>
        message.partition ?? 0,
  });
  await producer.connect();
  const offsets: bigint[] = [];
  try {
    for (const request of requests(records)) {
      const answers = await producer.send({
        topic: stack.topics.prefix + topic,
        messages: request.map(messageOf),
      });
      const next = new Map(answers.map(({ partition, baseOffset }) => [partition, BigInt(baseOffset ?? 0)]));
      for (const { partition } of request) {
        const offset = next.get(partition) ?? 0n;
        offsets.push(offset);
        next.set(partition, offset + 1n);
      }
    }
  } finally {
    await producer.disconnect();
  }
  return offsets;
}

/**
 * Puts batches into the topic as other clients may write them: packed by a codec that no consumer of ours can unpack, in
 * a transaction that is given up, in one that is kept.
 */
export async function sendForeignBatches(
  stack: Stack,
  topic: SourceTopicName,
  batches: {
    readonly packed: readonly WireRecord[];
    readonly givenUp: readonly WireRecord[];
    readonly kept: readonly WireRecord[];
  },
): Promise<void> {
  const { CompressionCodecs, CompressionTypes } = require('kafkajs') as typeof import('kafkajs');
  CompressionCodecs[CompressionTypes.ZSTD] = () => ({
    compress: async ({ buffer }: { buffer: Buffer }) => zstdCompressSync(buffer),
    decompress: async () => {
      throw new Error('nobody here can unpack this');
    },
  });
  const to = stack.topics.prefix + topic;
  const producer = stack.kafka().producer({
    allowAutoTopicCreation: false,
    transactionalId: to,
    idempotent: true,
    maxInFlightRequests: 1,
  });
  await producer.connect();
  try {
    await producer.send({
      topic: to,
      compression: CompressionTypes.ZSTD,
      messages: batches.packed.map(messageOf),
    });
    for (const which of ['givenUp', 'kept'] as const) {
      const transaction = await producer.transaction();
      await transaction.send({ topic: to, messages: batches[which].map(messageOf) });
      await (which === 'kept' ? transaction.commit() : transaction.abort());
    }
  } finally {
    await producer.disconnect();
  }
}

/** Committed offsets of a group of `Stack.process`, by partition; −1 where there is none. */
export async function committedOffsets(
  stack: Stack,
  topic: SourceTopicName,
  group: string,
): Promise<Map<number, bigint>> {
  const { prefix } = stack.topics;
  const admin = stack.kafka().admin();
  await admin.connect();
  try {
    const [offsets] = await admin.fetchOffsets({
      groupId: `${prefix.replace(/\.$/, '')}.${group}.${prefix}${topic}`,
      topics: [prefix + topic],
    });
    return new Map((offsets?.partitions ?? []).map(({ partition, offset }) => [partition, BigInt(offset)]));
  } finally {
    await admin.disconnect();
  }
}

/** Where each partition of the topic ends now. */
export async function endOffsets(stack: Stack, topic: SourceTopicName): Promise<Map<number, bigint>> {
  const admin = stack.kafka().admin();
  await admin.connect();
  try {
    const offsets = await admin.fetchTopicOffsets(stack.topics.prefix + topic);
    return new Map(offsets.map(({ partition, high }) => [partition, BigInt(high)]));
  } finally {
    await admin.disconnect();
  }
}

function requests(records: readonly WireRecord[]): WireRecord[][] {
  const all: WireRecord[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const record of records) {
    const own = sizeOf(record);
    // A client may take one time for all records of a request as the base of theirs.
    const last = all.at(-1);
    if (last === undefined || bytes + own > maxRequestBytes || record.timestampMs !== last[0]?.timestampMs) {
      all.push([record]);
      bytes = own;
    } else {
      last.push(record);
      bytes += own;
    }
  }
  return all;
}

function sizeOf({ key, value, headers }: WireRecord): number {
  return headers.reduce(
    (sum, [name, text]) => sum + name.length + text.length + 8,
    100 + (key?.length ?? 0) + (value?.length ?? 0),
  );
}

function messageOf({ partition, key, value, headers, timestampMs }: WireRecord): Message {
  const timestamp = timestampMs === undefined ? {} : { timestamp: String(timestampMs) };
  return { partition, key, value, headers: gathered(headers), ...timestamp };
}

function gathered(headers: WireRecord['headers']): Record<string, (Buffer | string)[]> {
  const byName = new Map<string, (Buffer | string)[]>();
  for (const [name, value] of headers) byName.set(name, [...(byName.get(name) ?? []), value]);
  return Object.fromEntries(byName);
}
