import { fault } from '@signalbox/faults/fault';
import { waitFor } from '@signalbox/testkit/wait';
import { describe, expect, it } from 'vitest';
import type { BusClient } from '../../src/bus-client.ts';
import type { IntakeRecord } from '../../src/messaging.ts';
import { messageOf } from '../effects.ts';
import { harness, haveAll, textsOf } from './harness.ts';

/** What a handler may throw for the records that it cannot take: none of it is news for the client. */
const errors: Readonly<Record<string, unknown>> = {
  SyntaxError: new SyntaxError('unexpected token'),
  TypeError: new TypeError('x is not a function'),
  RangeError: new RangeError('call stack exceeded'),
  ReferenceError: new ReferenceError('x is not defined'),
  Error: new Error('no'),
  'an AggregateError': new AggregateError([new Error('a'), new Error('b')], 'both'),
  'a fault that no other try heals': fault('VALIDATION_ERROR', 'no'),
  'a text': 'text',
  'an object': { code: 10, retriable: true },
  'a number': 42,
  null: null,
  undefined: undefined,
};
/** What says nothing about the records: the same once more. */
const passing: Readonly<Record<string, unknown>> = {
  'an abort': new DOMException('the operation was aborted', 'AbortError'),
  'a timeout': new DOMException('the operation timed out', 'TimeoutError'),
  'a store that is away': fault('REDIS_UNAVAILABLE', 'away'),
};

/** What handlers may do without harm to the client, to other records, or to the stop (delivery rules 9, 10, 29). */
export function describeHandlers(name: string, bus: BusClient): void {
  describe(`${name}: handlers`, () => {
    const parts = harness(bus);

    const texts = [...Object.keys(errors), ...Object.keys(passing)].flatMap((text, n) => [text, `good ${n}`]);
    const good = [...texts.filter((text) => !Object.hasOwn(errors, text)), 'last'];

    /** Throws what the text of the first such record of the session says; a passing error once. */
    function thrower(session: string) {
      const left = new Map(Object.keys(passing).map((text) => [text, 1]));
      const throwIfTold = (records: readonly IntakeRecord[]) => {
        for (const text of records.filter(({ sessionId }) => sessionId === session).map(messageOf)) {
          if (Object.hasOwn(errors, text)) throw errors[text];
          const times = left.get(text) ?? 0;
          left.set(text, times - 1);
          if (times > 0) throw passing[text];
        }
      };
      // Once thrown, once rejected: a handler may do both.
      return (records: readonly IntakeRecord[]) => {
        if (records.length % 2 === 0) throwIfTold(records);
        return Promise.resolve().then(() => throwIfTold(records));
      };
    }

    it.each(['intake', 'append'] as const)(
      'whatever a handler of %s throws, its record alone is put aside, and the member lives on',
      async (kind) => {
        const sessions = parts.sessions.slice(0, 4); // one partition
        const [session = ''] = sessions;
        const run = `throws-${kind}`;
        await parts.sendTo(sessions, ...texts, 'last');
        const thrown = thrower(session);
        const reader =
          kind === 'intake'
            ? parts.intake(run, {}, (records) => thrown(records))
            : parts.append(run, {}, (records) => thrown(records));
        await haveAll([reader], sessions, 'last', 25_000);
        if (kind === 'intake') expect(await parts.effects(run, session)).toEqual(good);
        expect(textsOf(reader.seen, session)).toEqual(good);
        for (const other of sessions.slice(1))
          expect(textsOf(reader.seen, other)).toEqual([...texts, 'last']);
        expect(await letters(run, session)).toEqual(Object.keys(errors));
        const crashes = reader.process.log.lines.filter(({ event }) =>
          /consumer\.(crashed|interrupted|rebuilding|runner_failed|processor_threw)/.test(event),
        );
        expect(crashes).toEqual([]);
        expect(reader.consumer.assigned().length).toBe(6);
      },
    );

    const letters = async (group: string, session: string) =>
      (
        await parts.stack.database.query<{ value: Buffer }>(
          'select value from messaging.dead_letters where consumer like $1 and key = $2 order by record_offset',
          [`%.${group}.%`, `acme:${session}`],
        )
      ).map(({ value }): string => JSON.parse(value.toString()).message);

    it('a handler that hangs does not take the member out of its group at once, and stop comes back', async () => {
      const never = new Promise<void>(() => undefined);
      const reader = parts.append('hang', {}, () => never);
      await parts.assigned(reader, 6);
      await parts.send('h');
      await waitFor(
        () => reader.process.log.lines,
        (lines) => lines.some(({ event }) => event === 'consumer.handler_hangs'),
        { timeoutMs: 8_000 },
      );
      expect(reader.consumer.assigned().length).toBe(6);
      expect(() => reader.consumer.probe()).toThrow(expect.objectContaining({ code: 'TIMEOUT' }));
      const began = performance.now();
      await reader.consumer.stop(2_000);
      expect(performance.now() - began).toBeLessThan(4_500);
    });

    it('a stop waits for the handler under way, and commits what it has done', async () => {
      let begun = false;
      const reader = parts.intake('stopped', {}, async (records) => {
        if (!records.some((record) => messageOf(record) === 'slow')) return;
        begun = true;
        await new Promise((resolve) => setTimeout(resolve, 800));
      });
      await parts.assigned(reader, 6);
      await parts.send('slow');
      await waitFor(
        () => begun,
        (is) => is,
      );
      await parts.close(reader);
      const done = await parts.allEffects('stopped');
      // What has its effect is committed; what it had not begun by then is the next one's.
      const next = parts.intake('stopped');
      await parts.send('next');
      await haveAll([next], parts.sessions, 'next');
      const all = await parts.allEffects('stopped');
      for (const each of parts.sessions) {
        expect(all.get(each)).toEqual(['slow', 'next']);
        expect(textsOf(next.seen, each)).toEqual(done.has(each) ? ['next'] : ['slow', 'next']);
      }
      expect(done.size).toBeGreaterThan(0);
    });

    it('one partition whose store is away does not hold up the others', async () => {
      let away = true;
      const [session = ''] = parts.sessions;
      const reader = parts.append('store', {}, async (records) => {
        if (away && records.some(({ sessionId }) => sessionId === session))
          throw fault('REDIS_UNAVAILABLE', 'away');
      });
      await parts.assigned(reader, 6);
      await parts.send('s1');
      await haveAll([reader], parts.sessions.slice(4), 's1');
      expect(textsOf(reader.seen, session)).toEqual([]);
      away = false;
      await haveAll([reader], parts.sessions, 's1');
      expect(textsOf(reader.seen, session)).toEqual(['s1']);
    });
  });
}
