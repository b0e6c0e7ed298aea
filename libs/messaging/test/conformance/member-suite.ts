import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { BusClient } from '../../src/bus-client.ts';
import type { AppendHandler, Consumer, IntakeRecord } from '../../src/messaging.ts';
import { partitionOf } from '../../src/murmur2.ts';
import { inbound, type Process, Stack } from '../stack.ts';

/** What a member of a group must hold, whatever client is behind it (delivery rules 9, 10). On a real broker. */
export function describeMember(name: string, bus: BusClient): void {
  describe(`${name}: member`, () => {
    let stack: Stack;
    let sender: Process;
    let proxy: FaultProxy;
    const open = new Set<Process>();

    beforeAll(async () => {
      stack = await Stack.create('conversation.inbound');
      const [host = '', port = ''] = testInfra().kafka.split(':');
      proxy = await startFaultProxy({ host, port: Number(port), kafka: true });
      sender = stack.process();
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

    interface Reader {
      readonly process: Process;
      readonly consumer: Consumer;
      readonly seen: IntakeRecord[];
    }

    function read(group: string, bootstrap?: string, before?: AppendHandler): Reader {
      const process = stack.process({
        bus,
        settings: { kafkaRequestTimeoutMs: 1_000, kafkaConnectionTimeoutMs: 500 },
        ...(bootstrap === undefined ? {} : { bootstrap }),
      });
      open.add(process);
      const seen: IntakeRecord[] = [];
      const consumer = process.messaging.consumeRaw({
        topic: 'conversation.inbound',
        group,
        handler: async (records, context) => {
          await before?.(records, context);
          seen.push(...records);
        },
      });
      return { process, consumer, seen };
    }

    // Four in each of the six partitions: tests count partitions.
    const sessions = Array.from({ length: 6 }, (_, partition) => sessionsIn(partition, 4)).flat();
    async function send(...texts: string[]): Promise<void> {
      for (const text of texts) {
        await sender.database.transaction((tx) =>
          sender.messaging.outbox.put(
            tx,
            sessions.map((session) => inbound(session, text)),
          ),
        );
      }
    }
    const textsOf = (records: readonly IntakeRecord[], session: string) => [
      ...new Set(
        records
          .filter((record) => record.sessionId === session)
          .map(({ value }) =>
            typeof value === 'object' && value !== null && 'message' in value ? String(value.message) : '',
          ),
      ),
    ];
    const ready = (reader: Reader, count: number) =>
      waitFor(
        () => reader.consumer.assigned(),
        (partitions) => partitions.length === count,
        {
          timeoutMs: 20_000,
          label: `${count} partitions`,
        },
      );
    async function committed(group: string): Promise<Map<number, bigint>> {
      const admin = stack.kafka().admin();
      await admin.connect();
      const prefix = stack.topics.prefix;
      const [offsets] = await admin.fetchOffsets({
        groupId: `${prefix.replace(/\.$/, '')}.${group}.${prefix}conversation.inbound`,
        topics: [`${prefix}conversation.inbound`],
      });
      await admin.disconnect();
      return new Map((offsets?.partitions ?? []).map(({ partition, offset }) => [partition, BigInt(offset)]));
    }

    it('two members share the partitions; what one leaves the other takes up; order by key stays', async () => {
      const a = read('share');
      await ready(a, 6);
      await send('1', '2');
      const b = read('share');
      await ready(a, 3);
      await ready(b, 3);
      await send('3', '4');
      await waitFor(
        () => [...a.seen, ...b.seen],
        (seen) => sessions.every((s) => textsOf(seen, s).includes('4')),
        {
          label: 'all four of every session',
        },
      );
      await a.process.close();
      open.delete(a.process);
      await ready(b, 6);
      await send('5');
      await waitFor(
        () => b.seen,
        (seen) => sessions.every((s) => textsOf(seen, s).includes('5')),
      );
      for (const session of sessions) {
        const inA = textsOf(a.seen, session);
        const inB = textsOf(b.seen, session);
        expect([...new Set([...inA, ...inB])]).toEqual(['1', '2', '3', '4', '5']);
        expect(inB).toEqual([...inB].sort());
      }
      // The leaver committed what it had finished: nothing of it was read again.
      expect(b.seen.filter((record) => a.seen.some((each) => each.eventId === record.eventId)).length).toBe(
        0,
      );
    });

    it('a member that is stopped while it joins leaves: the others have its partitions before a session times out', async () => {
      const a = read('stopped-in-join');
      await ready(a, 6);
      const b = read('stopped-in-join');
      // a has heard of the rebalance, so b's join is under way.
      await waitFor(
        () => a.consumer.assigned(),
        (partitions) => partitions.length === 0,
        { timeoutMs: 10_000, intervalMs: 1, label: 'the rebalance' },
      );
      const began = performance.now();
      await b.consumer.stop();
      await ready(a, 6);
      // Without the leave: 6 s, or the 15 s of a rebalance.
      expect(performance.now() - began).toBeLessThan(5_800);
    });

    it('committed offsets never go back, with members that come and go', async () => {
      const highest = new Map<number, bigint>();
      const wentBack: string[] = [];
      const watch = async () => {
        for (const [partition, offset] of await committed('churn')) {
          const before = highest.get(partition) ?? -1n;
          if (offset < before) wentBack.push(`${partition}: ${before} → ${offset}`);
          if (offset > before) highest.set(partition, offset);
        }
      };
      const a = read('churn');
      await ready(a, 6);
      for (let round = 0; round < 3; round += 1) {
        const b = read('churn');
        const sending = send('x', 'y', 'z');
        await ready(b, 3);
        await watch();
        await sending;
        await b.process.close();
        open.delete(b.process);
        await ready(a, 6);
        await watch();
      }
      await waitFor(
        async () => {
          await watch();
          const ends = await endOffsets();
          return [...ends].every(([partition, end]) => (highest.get(partition) ?? 0n) === end || end === 0n);
        },
        (all) => all,
        { label: 'everything committed' },
      );
      expect(wentBack).toEqual([]);
    });

    async function endOffsets(): Promise<Map<number, bigint>> {
      const admin = stack.kafka().admin();
      await admin.connect();
      const offsets = await admin.fetchTopicOffsets(`${stack.topics.prefix}conversation.inbound`);
      await admin.disconnect();
      return new Map(offsets.map(({ partition, high }) => [partition, BigInt(high)]));
    }

    it('seeks to an offset and to a time', async () => {
      const reader = read('seek');
      await ready(reader, 6);
      await send('before');
      await waitFor(
        () => reader.seen,
        (seen) => sessions.every((s) => textsOf(seen, s).includes('before')),
      );
      const at = Date.now();
      await new Promise((resolve) => setTimeout(resolve, 20));
      await send('after');
      await waitFor(
        () => reader.seen,
        (seen) => sessions.every((s) => textsOf(seen, s).includes('after')),
      );
      reader.seen.length = 0;
      expect((await reader.consumer.seekToTime(at)).length).toBe(6);
      await waitFor(
        () => reader.seen,
        (seen) => sessions.every((s) => textsOf(seen, s).includes('after')),
      );
      expect(sessions.some((s) => textsOf(reader.seen, s).includes('before'))).toBe(false);
      reader.seen.length = 0;
      const partition = reader.consumer.assigned()[0] ?? 0;
      expect(reader.consumer.seek(partition, 0n)).toBe(true);
      expect(reader.consumer.seek(99, 0n)).toBe(false);
      await waitFor(
        () => reader.seen,
        (seen) => seen.some((record) => record.partition === partition && record.offset === 0n),
      );
    });

    it('a handler that hangs does not take the member out of its group, and stop comes back', async () => {
      const never = new Promise<void>(() => undefined);
      let hang = true;
      const reader = read('hang', undefined, () => (hang ? never : Promise.resolve()));
      await ready(reader, 6);
      await send('h');
      await waitFor(
        () => reader.process.log.lines,
        (lines) => lines.some(({ event }) => event === 'consumer.handler_hangs'),
        {
          timeoutMs: 8_000,
        },
      );
      hang = false;
      expect(reader.consumer.assigned().length).toBe(6);
      const began = performance.now();
      await reader.consumer.stop(2_000);
      expect(performance.now() - began).toBeLessThan(4_500);
    });

    it('comes back by itself after the broker was away', async () => {
      const reader = read('away', proxy.address);
      await ready(reader, 6);
      await proxy.refuse();
      await send('a1');
      await new Promise((resolve) => setTimeout(resolve, 2_000));
      await proxy.heal();
      await waitFor(
        () => reader.seen,
        (seen) => sessions.every((s) => textsOf(seen, s).includes('a1')),
        {
          timeoutMs: 12_000,
          label: 'the records of the time away',
        },
      );
    });

    it('a black hole makes it unready, and it reads on when the hole heals', async () => {
      const reader = read('hole', proxy.address);
      await ready(reader, 6);
      await reader.process.messaging.probe(AbortSignal.timeout(5_000));
      proxy.blackhole();
      await send('b1');
      await waitFor(
        async () => {
          try {
            reader.consumer.probe();
            return 'ready';
          } catch {
            return 'unready';
          }
        },
        (state) => state === 'unready',
        { timeoutMs: 13_000, label: 'unready within 1.5 session timeouts and a little' },
      );
      await proxy.heal();
      await waitFor(
        () => reader.seen,
        (seen) => sessions.every((s) => textsOf(seen, s).includes('b1')),
        {
          timeoutMs: 25_000,
          label: 'the records of the black hole',
        },
      );
      await waitFor(
        () => {
          reader.consumer.probe();
          return true;
        },
        (is) => is,
        { timeoutMs: 10_000, label: 'ready again' },
      );
    });

    it('starts before its topic is there, and refuses another cluster', async () => {
      const process = stack.process({ bus });
      open.add(process);
      const consumer = process.messaging.consumeRaw({
        topic: 'tool.requests',
        group: 'early',
        handler: async () => undefined,
      });
      await waitFor(
        () => process.log.lines,
        (lines) => lines.some(({ event }) => event === 'consumer.start_delayed'),
      );
      await stack.topics.create('tool.requests');
      await waitFor(
        () => consumer.assigned(),
        (partitions) => partitions.length === 6,
        { timeoutMs: 10_000 },
      );

      const stranger = stack.process({ bus, settings: { kafkaClusterId: 'another-cluster' } });
      open.add(stranger);
      await expect(stranger.messaging.checkCluster()).rejects.toMatchObject({ code: 'WRONG_CLUSTER' });
      const refused = stranger.messaging.consumeRaw({
        topic: 'tool.requests',
        group: 'early',
        handler: async () => undefined,
      });
      await waitFor(
        () => stranger.log.lines,
        (lines) => lines.some(({ event }) => event === 'consumer.start_delayed'),
      );
      expect(() => refused.probe()).toThrow(expect.objectContaining({ code: 'WRONG_CLUSTER' }));
      expect(refused.assigned()).toEqual([]);
    });

    it('one partition whose store is away does not hold up the others', async () => {
      const blocked = sessions[0] ?? '';
      let away = true;
      const reader = read('store', undefined, async (records) => {
        if (away && records.some((record) => record.sessionId === blocked))
          throw fault('REDIS_UNAVAILABLE', 'away');
      });
      await ready(reader, 6);
      await send('s1');
      await waitFor(
        () => [...new Set(reader.seen.map(({ partition }) => partition))],
        (partitions) => partitions.length === 5,
        {
          label: 'five of six partitions',
        },
      );
      away = false;
      await waitFor(
        () => textsOf(reader.seen, blocked),
        (texts) => texts.includes('s1'),
      );
      expect(textsOf(reader.seen, blocked)).toEqual([...new Set(textsOf(reader.seen, blocked))]);
    });
  });
}

/** New session ids whose keys fall into the partition. */
function sessionsIn(partition: number, count: number): string[] {
  const found: string[] = [];
  while (found.length < count) {
    const session = newId();
    if (partitionOf(`acme:${session}`, 6) === partition) found.push(session);
  }
  return found;
}
