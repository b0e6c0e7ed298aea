import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { inbound, type Process, Stack } from '../test/stack.ts';
import type { AppendHandler } from './append.ts';
import { partitionOf } from './murmur2.ts';
import { toRecord } from './outgoing.ts';

const topic = 'conversation.inbound';
let stack: Stack;
let sender: Process;
beforeAll(async () => {
  stack = await Stack.create(topic);
  sender = stack.process();
});
afterAll(() => stack?.drop());

const open = new Set<Process>();
afterEach(async () => {
  await Promise.all([...open].map((process) => process.close()));
  open.clear();
});

let groups = 0;
const newGroup = () => {
  groups += 1;
  return `reads-${groups}`;
};

function reading(group: string, handler: AppendHandler, options: Parameters<Stack['process']>[0] = {}) {
  const process = stack.process(options);
  open.add(process);
  const consumer = process.messaging.consumeRaw({ topic, group, handler });
  return { process, consumer, seconds: consumer.watchUnread() };
}

const post = async (session = newId()) => {
  const message = inbound(session, 'x');
  await sender.database.transaction((tx) => sender.messaging.outbox.put(tx, [message]));
};
const level = (
  seconds: () => number | undefined,
  is: (now: number) => boolean,
  label: string,
): Promise<number | undefined> =>
  waitFor(
    () => {
      const now = seconds();
      if (now !== undefined && now < 0) throw new Error('negative');
      return now;
    },
    (now) => now !== undefined && is(now),
    { timeoutMs: 20_000, label },
  );

describe('the age of the oldest record that a group has not handled', () => {
  it('is 0 when caught up, grows while a handler stands still, and falls again with it', async () => {
    let away = false;
    let handled = 0;
    const { seconds } = reading(newGroup(), async (records) => {
      if (away) throw fault('DATABASE_UNAVAILABLE', 'stands still');
      handled += records.length;
    });
    await post();
    await waitFor(
      () => handled,
      (n) => n === 1,
    );
    await level(seconds, (now) => now === 0, 'caught up');
    away = true;
    const since = Date.now();
    await post();
    const first = await level(seconds, (now) => now > 0.5, 'an age');
    await post(); // a younger one changes nothing
    const second = await level(seconds, (now) => now > (first ?? 0) + 2, 'a greater age');
    expect(second).toBeLessThanOrEqual((Date.now() - since) / 1_000);
    away = false;
    await level(seconds, (now) => now === 0, 'caught up again');
  }, 40_000);

  it('is known to a process whose consumer has not come to read at all, from the first record on', async () => {
    await post();
    // Its store is away, so the consumer does not even join.
    const { seconds, consumer } = reading(newGroup(), async () => undefined, {
      databaseUrl: 'postgres://nobody@127.0.0.1:1/nothing',
    });
    const first = await level(seconds, (now) => now > 0, 'the age of what nobody reads');
    await level(seconds, (now) => now > (first ?? 0) + 1, 'a greater age');
    expect(consumer.assigned()).toEqual([]);
  }, 40_000);

  it('another replica counts: the group has handled what any of it has', async () => {
    const group = newGroup();
    const first = reading(group, async () => undefined);
    await level(first.seconds, (now) => now === 0, 'caught up');
    const second = reading(group, async () => undefined);
    await waitFor(
      () => [first.consumer.assigned().length, second.consumer.assigned().length],
      (counts) => counts.every((count) => count === 3),
      { timeoutMs: 30_000, label: 'three partitions each' },
    );
    for (let n = 0; n < 12; n += 1) await post();
    for (const { seconds } of [first, second]) await level(seconds, (now) => now === 0, 'caught up');
  }, 60_000);

  it('passes over offsets without a record, at the head of what is left and at the end of the log', async () => {
    const group = newGroup();
    let away = false;
    const { seconds, consumer } = reading(group, async () => {
      if (away) throw fault('DATABASE_UNAVAILABLE', 'stands still');
    });
    await level(seconds, (now) => now === 0, 'caught up');
    const session = newId();
    const partition = partitionOf(`acme:${session}`, 6);
    const producer = stack.kafka().producer({
      ...{ transactionalId: newId(), maxInFlightRequests: 1, idempotent: true },
      createPartitioner: () => () => partition,
    });
    await producer.connect();
    const transaction = async (end: 'commit' | 'abort') => {
      const tx = await producer.transaction();
      const { key, value, headers } = toRecord(inbound(session, 'x'), undefined);
      await tx.send({ topic: stack.topics.prefix + topic, messages: [{ key, value, headers }] });
      await tx[end]();
    };
    // Ends in a marker, which is an offset that nobody ever handles.
    await transaction('commit');
    await transaction('abort');
    await level(seconds, (now) => now === 0, 'caught up behind markers');
    away = true;
    await transaction('commit');
    await level(seconds, (now) => now > 1, 'the age of the record behind the markers');
    away = false;
    await level(seconds, (now) => now === 0, 'caught up');
    expect(consumer.assigned()).toContain(partition);
    await producer.disconnect();
  }, 60_000);

  it('goes on growing while the broker is away, and is right again with it', async () => {
    const [host = '', port] = testInfra().kafka.split(':');
    await using proxy = await startFaultProxy({ host, port: Number(port), kafka: true });
    const { seconds } = reading(newGroup(), async () => undefined, { bootstrap: proxy.address });
    await level(seconds, (now) => now === 0, 'caught up');
    await proxy.refuse();
    await level(seconds, (now) => now > 6, 'no news for six seconds');
    await proxy.heal();
    await level(seconds, (now) => now === 0, 'caught up');
  }, 60_000);
});
