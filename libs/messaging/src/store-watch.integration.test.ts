import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createEffects, effectsOf } from '../test/effects.ts';
import { inbound, type Process, Stack } from '../test/stack.ts';
import type { Consumer } from './messaging.ts';

let stack: Stack;
let sender: Process;
const open: { close(): Promise<void> }[] = [];
beforeAll(async () => {
  stack = await Stack.create('conversation.inbound');
  await createEffects(stack.database);
  sender = stack.process();
});
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close();
});
afterAll(() => stack?.drop());

interface Replica {
  readonly process: Process;
  readonly consumer: Consumer;
  readonly proxy: FaultProxy;
}

const settings = { kafkaHeartbeatIntervalMs: 500, kafkaStoreAwayLeaveMs: 1_000 };

/** A process that alone is behind its proxy to the database. */
async function replica(run: string): Promise<Replica> {
  const proxy = await startFaultProxy({ url: stack.database.url });
  const process = stack.process({ databaseUrl: proxy.url, settings });
  open.push(proxy, process);
  const consumer = process.messaging.consume({
    topic: 'conversation.inbound',
    group: run,
    inbox: 'own-row',
    handler: effectsOf(run),
  });
  return { process, consumer, proxy };
}

const holds = (consumer: Consumer, partitions: number, timeoutMs = 20_000) =>
  waitFor(
    () => consumer.assigned().length,
    (count) => count === partitions,
    { timeoutMs, label: `${partitions} partitions` },
  );
const post = async (text: string) => {
  const messages = Array.from({ length: 30 }, () => inbound(newId(), text));
  await sender.database.transaction((tx) => sender.messaging.outbox.put(tx, messages));
};
const handled = (run: string, text: string) =>
  waitFor(
    () => stack.database.query('select 1 from effects.effects where run = $1 and text = $2', [run, text]),
    (rows) => rows.length === 30,
    { timeoutMs: 20_000, label: `the effects of ${text}` },
  );
const told = ({ process }: { process: Process }, event: string) =>
  process.log.lines.filter((line) => line.event === event).length;
const left = (replica: { process: Process }) =>
  waitFor(
    () => told(replica, 'consumer.left_group'),
    (times) => times === 1,
    { timeoutMs: 20_000, label: 'left' },
  );

describe('a consumer whose store is away', () => {
  it.each(['refuse', 'blackhole'] as const)(
    'for it alone (%s) leaves its partitions to the others, and comes back with the store',
    async (kind) => {
      const run = `alone-${kind}`;
      const [a, b] = [await replica(run), await replica(run)];
      await Promise.all([holds(a.consumer, 3), holds(b.consumer, 3)]);
      await a.proxy[kind]();
      await post(`${kind}: while a is cut off`);
      await handled(run, `${kind}: while a is cut off`);
      expect(a.consumer.assigned()).toEqual([]);
      await a.process.messaging.probe(AbortSignal.timeout(1_000)); // Kafka is no worse for it
      await a.proxy.heal();
      await Promise.all([holds(a.consumer, 3), holds(b.consumer, 3)]);
      await post(`${kind}: when it is back`);
      await handled(run, `${kind}: when it is back`);
      expect([told(a, 'consumer.left_group'), told(b, 'consumer.left_group')]).toEqual([1, 0]);
      expect([...broken(a), ...broken(b)]).toEqual([]);
    },
  );

  it('for all of them is left by each once, and has them all back with their records', async () => {
    const replicas = [await replica('all'), await replica('all')];
    await Promise.all(replicas.map(({ consumer }) => holds(consumer, 3)));
    for (const { proxy } of replicas) await proxy.refuse();
    await post('while all are cut off');
    await Promise.all(replicas.map(left));
    await new Promise((resolve) => setTimeout(resolve, 4_000)); // several times what a member gets
    expect(replicas.map((each) => told(each, 'consumer.left_group'))).toEqual([1, 1]);
    expect(replicas.flatMap(({ consumer }) => consumer.assigned())).toEqual([]);
    for (const { proxy } of replicas) await proxy.heal();
    await handled('all', 'while all are cut off');
    await Promise.all(replicas.map(({ consumer }) => holds(consumer, 3)));
    expect(replicas.flatMap(broken)).toEqual([]);
  });

  it('is no reason to leave when it answers and only refuses', async () => {
    const process = stack.process({ settings });
    open.push(process);
    let tries = 0;
    const consumer = process.messaging.consumeRaw({
      topic: 'conversation.inbound',
      group: 'refuses',
      handler: async () => {
        tries += 1;
        throw fault('REDIS_UNAVAILABLE', 'full');
      },
    });
    await holds(consumer, 6);
    await post('refused');
    await waitFor(
      () => tries,
      (made) => made > 12,
      { timeoutMs: 20_000 },
    );
    expect(consumer.assigned()).toHaveLength(6);
    expect(told({ process }, 'consumer.left_group')).toBe(0);
  });

  it('and that is not the database is asked before its consumer comes back', async () => {
    let away = false;
    const store = async () => {
      if (away) throw fault('REDIS_UNAVAILABLE', 'away');
    };
    const process = stack.process({ settings });
    open.push(process);
    const seen: string[] = [];
    const consumer = process.messaging.consumeRaw({
      topic: 'conversation.inbound',
      group: 'other-store',
      storesAnswer: store,
      handler: async (records) => {
        await store();
        for (const { value } of records) seen.push(JSON.stringify(value));
      },
    });
    await holds(consumer, 6);
    away = true;
    await post('for the other store');
    await left({ process });
    const stop = process.messaging.close(3_000); // a stop does not wait for the store
    await stop;
    expect(seen.filter((text) => text.includes('for the other store'))).toEqual([]);
  });
});

/** What would say that the consumer is taken for broken. */
function broken({ process }: Replica): string[] {
  return process.log.lines
    .map(({ event }) => event)
    .filter((event) => event === 'consumer.given_up' || event === 'consumer.rebuilding');
}
