import { isFault } from '@signalbox/faults/fault';
import { silentLog } from '@signalbox/telemetry/silent';
import { expect, it } from 'vitest';
import type { PlacedRecord, ProducerClient } from './bus-client.ts';
import { partitionOf } from './murmur2.ts';
import type { PlainRecord } from './outgoing.ts';
import { createProducer, type Sending } from './producer.ts';

// The client is the port of bus-client.ts, and the errors are what kafkajs throws of itself; the producer is the real one.
function sender(send: (records: readonly PlacedRecord[]) => void) {
  const told: string[] = [];
  const client: ProducerClient = {
    send: async (records) => {
      send(records);
      return records.map(({ partition }, n) => ({ partition, offset: BigInt(n) }));
    },
    close: async () => undefined,
  };
  const producer = createProducer(client, silentLog);
  const enqueue = (name: string, record: () => PlainRecord, partition?: number) => {
    const sending: Sending = {
      ...{ topic: 'conversation.inbound', key: 'acme:s', bytes: 10, withdrawn: false, record, partition },
      sent: () => void told.push(`${name} sent`),
      refused: (reason) => void told.push(`${name} ${isFault(reason) ? reason.code : ''}`),
    };
    producer.enqueue(sending);
  };
  return { told, enqueue, settled: () => producer.idle(AbortSignal.timeout(5_000)) };
}
const good = (): PlainRecord => ({
  ...{ topic: 'conversation.inbound', key: 'acme:s', headers: {}, value: Buffer.from('x') },
});

it('an error of the client about itself is tried again, and refuses no record', async () => {
  const errors = [
    new TypeError('x is not a function'),
    Object.assign(new RangeError('out of range'), { code: 'ERR_OUT_OF_RANGE' }),
  ];
  const { told, enqueue, settled } = sender(() => {
    const error = errors.shift();
    if (error !== undefined) throw error;
  });
  for (const name of ['a', 'b', 'c']) enqueue(name, good);
  await settled();
  expect(told).toEqual(['a sent', 'b sent', 'c sent']);
});

it('a record that cannot be encoded is refused alone, in its place, without being sent', async () => {
  const tried: number[] = [];
  const { told, enqueue, settled } = sender((records) => void tried.push(records.length));
  enqueue('a', good);
  enqueue('header', () => ({ ...good(), headers: JSON.parse('{"n": 1}') }));
  enqueue('value', () => ({ ...good(), value: JSON.parse('"text"') }));
  enqueue('maker', () => {
    throw new TypeError('no headers');
  });
  enqueue('b', good);
  await settled();
  expect(told).toEqual([
    'a sent',
    'header RECORD_REFUSED',
    'value RECORD_REFUSED',
    'maker RECORD_REFUSED',
    'b sent',
  ]);
  expect(tried.reduce((sum, n) => sum + n, 0)).toBe(2);
});

it('a record goes where it says, and where its key says if it says nothing', async () => {
  const placed: number[] = [];
  const { enqueue, settled } = sender((records) => {
    placed.push(...records.map(({ partition }) => partition));
  });
  enqueue('by key', good);
  for (const partition of [0, 5]) enqueue(`to ${partition}`, good, partition);
  await settled();
  expect(placed).toEqual([partitionOf('acme:s', 6), 0, 5]);
});
