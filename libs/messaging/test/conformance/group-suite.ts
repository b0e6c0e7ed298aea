import { newId } from '@signalbox/contracts/ids';
import { waitFor } from '@signalbox/testkit/wait';
import { describe, expect, it } from 'vitest';
import type { BusClient } from '../../src/bus-client.ts';
import { busAround } from '../member-wrappers.ts';
import { inbound } from '../stack.ts';
import { committedOffsets, endOffsets } from '../wire.ts';
import { harness, haveAll, type Reader, textsOf } from './harness.ts';

const topic = 'conversation.inbound';

/** What membership in a group must hold: order by key, redelivery, rebalance, offsets (delivery rules 9, 11). */
export function describeGroup(name: string, bus: BusClient): void {
  describe(`${name}: group`, () => {
    const parts = harness(bus, 'tool.catalog');

    it('two members share the partitions; what one leaves the other takes up; order by key stays', async () => {
      const a = parts.append('share');
      await parts.assigned(a, 6);
      await parts.send('1', '2');
      const b = parts.append('share');
      await parts.assigned(a, 3);
      await parts.assigned(b, 3);
      await parts.send('3', '4');
      await haveAll([a, b], parts.sessions, '4');
      await parts.close(a);
      await parts.assigned(b, 6);
      await parts.send('5');
      await haveAll([b], parts.sessions, '5');
      for (const session of parts.sessions) {
        const inB = textsOf(b.seen, session);
        expect([...new Set([...textsOf(a.seen, session), ...inB])]).toEqual(['1', '2', '3', '4', '5']);
        expect(inB).toEqual([...inB].sort());
      }
      // The leaver committed what it had finished: nothing of it was read again.
      const inA = new Set(a.seen.map(({ eventId }) => eventId));
      expect(b.seen.filter(({ eventId }) => inA.has(eventId)).length).toBe(0);
    });

    it('a member that is stopped while it joins leaves: the others have its partitions before a session times out', async () => {
      const a = parts.append('stopped-in-join');
      await parts.assigned(a, 6);
      const b = parts.append('stopped-in-join');
      // a has heard of the rebalance, so b's join is under way.
      await waitFor(
        () => a.consumer.assigned(),
        (partitions) => partitions.length === 0,
        { timeoutMs: 10_000, intervalMs: 1, label: 'the rebalance' },
      );
      const began = performance.now();
      await b.consumer.stop();
      await parts.assigned(a, 6);
      // Without the leave: 6 s, or the 15 s of a rebalance.
      expect(performance.now() - began).toBeLessThan(5_800);
    });

    it('under load, with members that come and go each second: nothing lost, nothing twice, order by key in effect', async () => {
      const highest = new Map<number, bigint>();
      const wentBack: string[] = [];
      const look = async () => {
        for (const [partition, offset] of await committedOffsets(parts.stack, topic, 'churn')) {
          const before = highest.get(partition) ?? -1n;
          if (offset < before) wentBack.push(`${partition}: ${before} → ${offset}`);
          if (offset > before) highest.set(partition, offset);
        }
      };
      await parts.assigned(parts.intake('churn'), 6);
      const texts: string[] = [];
      const comers: Reader[] = [];
      for (let second = 0; second < 10; second += 1) {
        // Two more come, the older of them goes, another comes, …
        const leaver = second % 2 === 1 ? comers.shift() : undefined;
        if (leaver === undefined) comers.push(parts.intake('churn'));
        const leaving = leaver === undefined ? Promise.resolve() : parts.close(leaver);
        const end = performance.now() + 1_000;
        while (performance.now() < end) {
          texts.push(String(texts.length));
          await parts.send(texts.at(-1) ?? '');
          await new Promise((resolve) => setTimeout(resolve, 50));
        }
        await leaving;
        await look();
      }
      const all = await waitFor(
        () => parts.allEffects('churn'),
        (effects) => parts.sessions.every((session) => effects.get(session)?.length === texts.length),
        { timeoutMs: 30_000, label: 'every effect' },
      );
      for (const session of parts.sessions) expect(all.get(session)).toEqual(texts);
      await waitFor(
        async () => {
          await look();
          return [...(await endOffsets(parts.stack, topic))];
        },
        (ends) => ends.every(([partition, end]) => end === 0n || highest.get(partition) === end),
        { label: 'everything committed' },
      );
      expect(wentBack).toEqual([]);
    }, 60_000);

    it('records whose offsets were never committed come again, in order, and have their effect once', async () => {
      const first = parts.intake('again', {
        bus: busAround(bus, (member) => ({
          get lastFetchAt() {
            return member.lastFetchAt;
          },
          get lastHeartbeatAt() {
            return member.lastHeartbeatAt;
          },
          get joining() {
            return member.joining;
          },
          lag: () => member.lag(),
          start: () => member.start(),
          assigned: () => member.assigned(),
          seek: (partition, offset) => member.seek(partition, offset),
          // Its process dies before any commit is out.
          commit: async () => undefined,
          stop: async () => {
            member.abandon();
            member.disconnectLater();
          },
          abandon: () => member.abandon(),
          disconnectLater: () => member.disconnectLater(),
        })),
      });
      await parts.assigned(first, 6);
      await parts.send('r1', 'r2');
      await haveAll([first], parts.sessions, 'r2');
      await parts.close(first);
      const second = parts.intake('again');
      await parts.send('r3');
      await haveAll([second], parts.sessions, 'r3', 20_000);
      const all = await parts.allEffects('again');
      for (const session of parts.sessions) {
        expect(textsOf(second.seen, session)).toEqual(['r1', 'r2', 'r3']);
        expect(all.get(session)).toEqual(['r1', 'r2', 'r3']);
      }
    });

    it('a member without a partition is a good member', async () => {
      const catalog = (group: string) => {
        const process = parts.process({ settings: { kafkaSessionTimeoutMs: 1_000 } });
        return process.messaging.consumeRaw({ topic: 'tool.catalog', group, handler: async () => undefined });
      };
      const both = [catalog('spare'), catalog('spare')];
      const isReady = () => both.every((each) => !throws(() => each.probe()));
      await waitFor(isReady, (ready) => ready, { timeoutMs: 15_000, label: 'both ready' });
      const end = performance.now() + 2_500; // over 1.5 of its session timeouts
      const bad: number[] = [];
      while (performance.now() < end) {
        if (!isReady()) bad.push(performance.now());
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      expect(bad).toEqual([]);
      expect(both.map((each) => each.assigned().length).sort()).toEqual([0, 1]);
    });

    it('seeks to an offset and to a time', async () => {
      const reader = parts.append('seek');
      await parts.assigned(reader, 6);
      await parts.send('before');
      await haveAll([reader], parts.sessions, 'before');
      const at = Date.now();
      await new Promise((resolve) => setTimeout(resolve, 20));
      await parts.send('after');
      await haveAll([reader], parts.sessions, 'after');
      reader.seen.length = 0;
      expect((await reader.consumer.seekToTime(at)).length).toBe(6);
      await haveAll([reader], parts.sessions, 'after');
      expect(parts.sessions.some((session) => textsOf(reader.seen, session).includes('before'))).toBe(false);
      reader.seen.length = 0;
      const partition = reader.consumer.assigned()[0] ?? 0;
      expect(reader.consumer.seek(partition, 0n)).toBe(true);
      expect(reader.consumer.seek(99, 0n)).toBe(false);
      await waitFor(
        () => reader.seen,
        (seen) => seen.some((record) => record.partition === partition && record.offset === 0n),
      );
    });

    it('a new group begins at the beginning', async () => {
      const session = newId();
      const sender = parts.process();
      await sender.database.transaction((tx) =>
        sender.messaging.outbox.put(tx, [inbound(session, 'long before')]),
      );
      await waitFor(
        () => parts.stack.read(topic),
        (records) => records.some(({ key }) => key === `acme:${session}`),
      );
      await haveAll([parts.append('new')], [session], 'long before');
    });

    it('starts before its topic is there, and refuses another cluster', async () => {
      const process = parts.process();
      const early = (of: typeof process) =>
        of.messaging.consumeRaw({ topic: 'tool.requests', group: 'early', handler: async () => undefined });
      const consumer = early(process);
      const delayed = (of: typeof process) =>
        waitFor(
          () => of.log.lines,
          (lines) => lines.some(({ event }) => event === 'consumer.start_delayed'),
        );
      await delayed(process);
      await parts.stack.topics.create('tool.requests');
      await waitFor(
        () => consumer.assigned(),
        (partitions) => partitions.length === 6,
        { timeoutMs: 10_000 },
      );

      const stranger = parts.process({ settings: { kafkaClusterId: 'another-cluster' } });
      await expect(stranger.messaging.checkCluster()).rejects.toMatchObject({ code: 'WRONG_CLUSTER' });
      const refused = early(stranger);
      await delayed(stranger);
      expect(() => refused.probe()).toThrow(expect.objectContaining({ code: 'WRONG_CLUSTER' }));
      expect(refused.assigned()).toEqual([]);
    });
  });
}

function throws(run: () => void): boolean {
  try {
    run();
    return false;
  } catch {
    return true;
  }
}
