import { newId } from '@signalbox/contracts/ids';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { BusClient } from '../../src/bus-client.ts';
import { partitionOf } from '../../src/murmur2.ts';
import type { DirectRecord, Receipt } from '../../src/outgoing.ts';
import { type Process, type ReadRecord, Stack } from '../stack.ts';

const topic = 'conversation.outbound';

/** What sends must hold, whatever client is behind them (delivery rules 1–3). On a real broker, through a proxy that breaks. */
export function describeProducer(name: string, bus: BusClient): void {
  describe(`${name}: producer`, () => {
    let stack: Stack;
    let proxy: FaultProxy;
    const open = new Set<Process>();

    beforeAll(async () => {
      stack = await Stack.create('conversation.outbound');
      const [host = '', port = ''] = testInfra().kafka.split(':');
      proxy = await startFaultProxy({ host, port: Number(port), kafka: true });
    });
    afterEach(async () => {
      await proxy.heal();
      await Promise.all([...open].map((process) => process.close()));
      open.clear();
    });
    afterAll(async () => {
      await proxy?.close();
      await stack?.drop();
    });

    function process(): Process {
      const opened = stack.process({
        bus,
        bootstrap: proxy.address,
        settings: { kafkaRequestTimeoutMs: 600, kafkaConnectionTimeoutMs: 500 },
      });
      open.add(opened);
      return opened;
    }

    const record = (key: string, text: string): DirectRecord => ({
      topic,
      key,
      headers: { event_type: 'assistant.delta', schema: 'conversation.outbound.v1' },
      value: Buffer.from(text),
    });
    const logOf = async (key: string) => (await stack.read(topic)).filter((each) => each.key === key);
    const first = (records: readonly ReadRecord[]) => [...new Set(records.map(({ value }) => value))];

    it('puts records of a key into the log in the order of the calls, in the partition of its hash', async () => {
      const { messaging } = process();
      const key = `acme:${newId()}`;
      const receipts = await Promise.all(
        Array.from({ length: 1_000 }, (_, n) => messaging.producer.direct(record(key, String(n)))),
      );
      expect(new Set(receipts.map(({ partition }) => partition))).toEqual(new Set([partitionOf(key, 6)]));
      const log = await logOf(key);
      expect(log.map(({ value }) => value)).toEqual(receipts.map((_, n) => String(n)));
      expect(log.map(({ offset }) => offset)).toEqual(receipts.map(({ offset }) => offset));
    });

    it('an acknowledged record is in the log after answers were lost, and nothing overtakes it', async () => {
      const { messaging } = process();
      const key = `acme:${newId()}`;
      await messaging.producer.direct(record(key, 'warm'));
      const sends: Promise<Receipt>[] = [];
      for (let n = 0; n < 60; n += 1) {
        // The broker appends what was sent and its answer never comes: the client times out and tries again.
        if (n === 10) proxy.blackhole('to-client');
        if (n === 25) proxy.cut();
        if (n === 30) await proxy.heal();
        sends.push(messaging.producer.direct(record(key, String(n))));
        await new Promise((resolve) => setTimeout(resolve, n < 30 ? 40 : 5));
      }
      const receipts = await Promise.all(sends);
      const log = await logOf(key);
      expect(first(log)).toEqual(['warm', ...receipts.map((_, n) => String(n))]);
      for (const [n, { offset }] of receipts.entries()) {
        expect(log.some((each) => each.offset === offset && each.value === String(n))).toBe(true);
      }
    });

    it('an acknowledged record is in the log after a partition refused its neighbours', async () => {
      const { messaging } = process();
      const keys = Array.from({ length: 8 }, () => `acme:${newId()}`);
      const tooLarge = 'x'.repeat(1_200_000); // over max.message.bytes: refused alone, and everything with it in one request
      const sends: { key: string; text: string; outcome: Promise<Receipt | string> }[] = [];
      for (let n = 0; n < 400; n += 1) {
        const key = keys[n % keys.length] ?? '';
        const text = n % 100 === 37 ? tooLarge : String(n);
        const outcome = messaging.producer
          .direct(record(key, text))
          .catch((error: { code: string }) => error.code);
        sends.push({ key, text, outcome });
        if (n % 50 === 49) await outcome; // several requests
      }
      const outcomes = await Promise.all(sends.map(({ outcome }) => outcome));
      expect(outcomes.filter((outcome) => outcome === 'RECORD_REFUSED').length).toBe(4);
      const log = await stack.read(topic);
      for (const key of keys) {
        const wanted = sends
          .filter((each) => each.key === key && each.text !== tooLarge)
          .map(({ text }) => text);
        expect(first(log.filter((each) => each.key === key))).toEqual(wanted);
      }
    });

    it('keeps trying while the broker is away, and sends in order when it is back', async () => {
      const { messaging } = process();
      const key = `acme:${newId()}`;
      await messaging.producer.direct(record(key, 'warm'));
      await proxy.refuse();
      const sends = Array.from({ length: 50 }, (_, n) => messaging.producer.direct(record(key, String(n))));
      await new Promise((resolve) => setTimeout(resolve, 700));
      await proxy.heal();
      const back = performance.now();
      await Promise.all(sends);
      expect(performance.now() - back).toBeLessThan(2_000);
      expect(first(await logOf(key))).toEqual(['warm', ...sends.map((_, n) => String(n))]);
    });

    it('a connection whose first question was not answered is not kept: it sends soon after the hole has healed', async () => {
      const { messaging } = process();
      const key = `acme:${newId()}`;
      await messaging.probe(AbortSignal.timeout(5_000)); // the cluster is known, the producer not yet connected
      const before = proxy.accepted();
      proxy.blackhole('to-client');
      const sends = Array.from({ length: 5 }, (_, n) => messaging.producer.direct(record(key, String(n))));
      await waitFor(proxy.accepted, (accepted) => accepted > before, { label: 'a connection' });
      await new Promise((resolve) => setTimeout(resolve, 1_500)); // the question has timed out by then
      await proxy.heal();
      const back = performance.now();
      await Promise.all(sends);
      expect(performance.now() - back).toBeLessThan(3_000);
      expect(first(await logOf(key))).toEqual(sends.map((_, n) => String(n)));
    });

    it('a direct record waits as long as its caller does, and no longer', async () => {
      const { messaging } = process();
      const key = `acme:${newId()}`;
      await messaging.producer.direct(record(key, 'warm'));
      await proxy.refuse();
      const began = performance.now();
      await expect(
        messaging.producer.direct(record(key, 'late'), AbortSignal.timeout(300)),
      ).rejects.toMatchObject({
        code: 'TIMEOUT',
      });
      expect(performance.now() - began).toBeLessThan(600);
      await proxy.heal();
      await messaging.producer.direct(record(key, 'next'));
      expect(first(await logOf(key))).toEqual(['warm', 'next']);
    });

    it('splits what is too much for one request of a partition', async () => {
      const { messaging } = process();
      const key = `acme:${newId()}`;
      const sends = Array.from({ length: 30 }, (_, n) =>
        messaging.producer.direct(record(key, `${n} ${'y'.repeat(200_000)}`)),
      );
      await Promise.all(sends);
      expect((await logOf(key)).map(({ value }) => value.split(' ')[0])).toEqual(
        sends.map((_, n) => String(n)),
      );
    });

    it('takes thousands of small records for one partition at once', async () => {
      const { messaging } = process();
      const key = `acme:${newId()}`;
      // In one request the broker refuses so many together.
      const sends = Array.from({ length: 6_000 }, (_, n) =>
        messaging.producer.direct(record(key, String(n))),
      );
      await Promise.all(sends);
      expect((await logOf(key)).map(({ value }) => value)).toEqual(sends.map((_, n) => String(n)));
    });

    it('starts while the broker is away', async () => {
      await proxy.refuse();
      const { messaging } = process();
      const key = `acme:${newId()}`;
      const send = messaging.producer.direct(record(key, 'early'));
      await new Promise((resolve) => setTimeout(resolve, 200));
      await proxy.heal();
      await send;
      await waitFor(
        () => logOf(key),
        (log) => log.length === 1,
      );
    });
  });
}
