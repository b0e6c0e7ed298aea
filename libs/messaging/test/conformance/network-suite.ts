import { waitFor } from '@signalbox/testkit/wait';
import { describe, expect, it } from 'vitest';
import type { BusClient } from '../../src/bus-client.ts';
import { committedOffsets, endOffsets } from '../wire.ts';
import { harness, haveAll, type Reader } from './harness.ts';

const topic = 'conversation.inbound';
/** What the watchdog counts with; the broker gives its members six times that. */
const impatient = { kafkaSessionTimeoutMs: 1_000 };

/** What a member must hold when its way to the broker breaks (delivery rules 9, 10). Through a proxy that breaks it. */
export function describeNetwork(name: string, bus: BusClient): void {
  describe(`${name}: network`, () => {
    const parts = harness(bus);
    const throughProxy = () => ({ bootstrap: parts.proxy.address, settings: impatient });

    const state = ({ consumer }: Reader) => {
      try {
        consumer.probe();
        return 'ready';
      } catch {
        return 'unready';
      }
    };
    const becomes = (reader: Reader, wanted: 'ready' | 'unready') =>
      waitFor(
        () => state(reader),
        (is) => is === wanted,
        { timeoutMs: 15_000, label: wanted },
      );

    it('comes back by itself after the broker was away', async () => {
      const reader = parts.append('away', throughProxy());
      await parts.assigned(reader, 6);
      await parts.proxy.refuse();
      await parts.send('a1');
      await becomes(reader, 'unready');
      await parts.proxy.heal();
      await haveAll([reader], parts.sessions, 'a1');
      await becomes(reader, 'ready');
    });

    it.each(['both', 'to-server', 'to-client'] as const)(
      'a black hole (%s) makes it unready, and it reads on when the hole heals',
      async (direction) => {
        const reader = parts.append(`hole-${direction}`, throughProxy());
        await parts.assigned(reader, 6);
        await becomes(reader, 'ready');
        parts.proxy.blackhole(direction);
        const began = performance.now();
        await parts.send(`hole ${direction}`);
        await becomes(reader, 'unready');
        expect(performance.now() - began).toBeLessThan(1.5 * 1_000 + 2_000);
        await parts.proxy.heal();
        await haveAll([reader], parts.sessions, `hole ${direction}`, 20_000);
        await becomes(reader, 'ready');
      },
    );

    it('connections that break again and again under load cost nothing but time', async () => {
      const reader = parts.intake('cut', { bootstrap: parts.proxy.address });
      await parts.assigned(reader, 6);
      const texts = Array.from({ length: 40 }, (_, n) => String(n));
      for (const [n, text] of texts.entries()) {
        await parts.send(text);
        if (n % 5 === 2) parts.proxy.cut();
        await new Promise((resolve) => setTimeout(resolve, 40));
      }
      const all = await waitFor(
        () => parts.allEffects('cut'),
        (effects) => parts.sessions.every((session) => effects.get(session)?.at(-1) === texts.at(-1)),
        { timeoutMs: 20_000, label: 'every effect' },
      );
      for (const session of parts.sessions) {
        const own = all.get(session) ?? [];
        expect(own).toEqual(texts);
      }
    });

    it('a commit that was held up until its partitions were another’s does not set the group back', async () => {
      const cutOff = parts.intake('late', { bootstrap: parts.proxy.address });
      await parts.assigned(cutOff, 6);
      await parts.send('l1');
      await haveAll([cutOff], parts.sessions, 'l1');
      parts.proxy.blackhole('to-client');
      // Fetches that are answered from here on it never sees; what it still sends arrives, and then nothing does.
      await parts.send('l2');
      parts.proxy.blackhole('both');
      const other = parts.intake('late');
      await parts.assigned(other, 6);
      await parts.send('l3');
      await haveAll([other], parts.sessions, 'l3', 20_000);
      const everywhere = async () => {
        const committed = await committedOffsets(parts.stack, topic, 'late');
        return [...(await endOffsets(parts.stack, topic))].every(
          ([partition, end]) => committed.get(partition) === end,
        );
      };
      await waitFor(everywhere, (all) => all, { label: 'all of it committed by the other' });
      await parts.proxy.heal();
      // It learns that it is out, and joins again: for so long no commit of its may count.
      const wentBack: boolean[] = [];
      await waitFor(
        async () => {
          if (!(await everywhere())) wentBack.push(true);
          return (
            cutOff.consumer.assigned().length + other.consumer.assigned().length === 6 &&
            cutOff.consumer.assigned().length === 3
          );
        },
        (shared) => shared,
        { timeoutMs: 25_000, label: 'both in the group' },
      );
      expect(wentBack).toEqual([]);
      await parts.send('l4');
      await haveAll([cutOff, other], parts.sessions, 'l4');
      const all = await parts.allEffects('late');
      for (const session of parts.sessions) expect(all.get(session)).toEqual(['l1', 'l2', 'l3', 'l4']);
    }, 45_000);
  });
}
