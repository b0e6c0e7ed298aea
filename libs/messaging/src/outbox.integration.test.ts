import { newId } from '@signalbox/contracts/ids';
import { waitFor } from '@signalbox/testkit/wait';
import { describe, expect, it } from 'vitest';
import { outboxStack, slots } from '../test/outbox-stack.ts';
import { firstCopies, inbound } from '../test/stack.ts';
import { leaseSlots, putRows, staleRows } from './outbox-sql.ts';
import { toRecord } from './outgoing.ts';

const outbox = outboxStack();

describe('the outbox', () => {
  it('publishes what transactions put, in order, and deletes the rows', async () => {
    const process = outbox.start();
    const session = newId();
    await outbox.put(process, inbound(session, 'one'), inbound(session, 'two'));
    await outbox.put(process, inbound(session, 'three'));
    await outbox.emptied(session);
    expect(await outbox.published(session)).toEqual(['one', 'two', 'three']);
  });

  it('publishes nothing of a transaction that failed', async () => {
    const process = outbox.start();
    const session = newId();
    await expect(
      process.database.transaction(async (tx) => {
        await process.messaging.outbox.put(tx, [inbound(session, 'never')]);
        throw new Error('no');
      }),
    ).rejects.toThrow('no');
    await outbox.put(process, inbound(session, 'kept'));
    await outbox.emptied(session);
    expect(await outbox.published(session)).toEqual(['kept']);
  });

  it('two commits of one process that come back out of order are queued in id order', async () => {
    const process = outbox.start();
    const session = newId();
    const first = await outbox.putByHand(process, inbound(session, 'one'));
    const second = await outbox.putByHand(process, inbound(session, 'two'));
    expect(second.prevId).toBe(first.id);
    process.messaging.outbox.committed([second]);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(await outbox.published(session)).toEqual([]);
    process.messaging.outbox.committed([first]);
    await outbox.emptied(session);
    expect(await outbox.published(session)).toEqual(['one', 'two']);
  });

  it('a row whose predecessor never comes back is left to the relay, which sends both in order', async () => {
    const process = outbox.start({ settings: { outboxFastMaxAgeMs: 300 } });
    const session = newId();
    await outbox.putByHand(process, inbound(session, 'one')); // its commit's answer was lost
    process.messaging.outbox.committed([await outbox.putByHand(process, inbound(session, 'two'))]);
    await waitFor(
      () => outbox.rows(session),
      (left) => left.some(({ writer }) => writer === null),
      { label: 'given up' },
    );
    await outbox.relaySends(process, await outbox.relayReads(process, session));
    expect(await outbox.published(session)).toEqual(['one', 'two']);
  });

  it('a row behind one of another writer takes no fast path', async () => {
    const [a, b] = [outbox.start(), outbox.start()];
    const session = newId();
    const first = await outbox.putByHand(a, inbound(session, 'one'));
    await outbox.put(b, inbound(session, 'two'));
    expect((await outbox.rows(session)).map(({ writer }) => writer)).toEqual([a.instanceId, null]);
    const third = await outbox.putByHand(a, inbound(session, 'three'));
    expect(third.fast).toBe(false);
    a.messaging.outbox.committed([first, third]);
    await outbox.relaySends(b, await outbox.relayReads(b, session));
    await outbox.emptied(session);
    expect(await outbox.published(session)).toEqual(['one', 'two', 'three']);
  });

  it('two writers on one key: the one that waits for the lock sees what the other has put', async () => {
    const [a, b] = [outbox.start(), outbox.start()];
    const session = newId();
    const record = (text: string) => {
      const message = inbound(session, text);
      return { ...toRecord(message, undefined), tenant: 'acme', eventId: message.eventId };
    };
    const { promise: gate, resolve: openGate } = Promise.withResolvers<void>();
    const { promise: hasPut, resolve: tellPut } = Promise.withResolvers<void>();
    const first = a.database.transaction(async (tx) => {
      const [row] = await putRows(tx, a.instanceId, [record('one')]);
      tellPut();
      await gate;
      return row;
    });
    await hasPut;
    const second = b.database.transaction((tx) => putRows(tx, b.instanceId, [record('two')]));
    await new Promise((resolve) => setTimeout(resolve, 100)); // b waits for the key's lock now
    openGate();
    expect((await first)?.fast).toBe(true);
    expect((await second)[0]?.fast).toBe(false);
  });

  it('10 writers on 20 keys with a relay beside them: first copies are in id order, every key', async () => {
    const writers = [outbox.start(), outbox.start(), outbox.start()];
    const relay = outbox.start();
    const sessions = Array.from({ length: 20 }, () => newId());
    const stop = new AbortController();
    const relaying = (async () => {
      while (!stop.signal.aborted) {
        const read = (await staleRows(relay.database, slots, 200, 200, [])).filter(({ key }) =>
          sessions.includes(key.slice(5)),
        );
        if (Math.random() < 0.3) await new Promise((resolve) => setTimeout(resolve, 20)); // a slow one
        await outbox.relaySends(relay, read);
        if (read.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
      }
    })();
    await Promise.all(
      Array.from({ length: 9 }, async (_, w) => {
        for (let n = 0; n < 25; n += 1) {
          const process = writers[w % 3];
          const picked = [
            ...new Set(Array.from({ length: 3 }, () => sessions[Math.floor(Math.random() * 20)] ?? '')),
          ];
          if (process !== undefined)
            await outbox.put(
              process,
              ...picked.map((session) => inbound(session, '', { requestId: `${w}-${n}` })),
            );
        }
      }),
    );
    await Promise.all(sessions.map(outbox.emptied));
    stop.abort();
    await relaying;
    const log = await outbox.stack.read('conversation.inbound');
    let total = 0;
    for (const session of sessions) {
      const ids = [
        ...new Set(
          log.filter(({ key }) => key === `acme:${session}`).map(({ headers }) => headers.event_id ?? ''),
        ),
      ];
      total += ids.length;
      // Within one writer the order of its calls is known; between writers the lock decided it.
      for (let w = 0; w < 9; w += 1) {
        const turns = log
          .filter(
            ({ key, headers }) => key === `acme:${session}` && headers['x-request-id']?.startsWith(`${w}-`),
          )
          .map(({ headers }) => Number(headers['x-request-id']?.split('-')[1]));
        const firsts = [...new Set(turns)];
        expect(firsts).toEqual([...firsts].sort((x, y) => x - y));
      }
    }
    expect(total).toBeGreaterThan(400);
  });

  it('refuses a row over 900 kB, and takes one four times as large for a dead letter', async () => {
    const process = outbox.start();
    const session = newId();
    await expect(outbox.put(process, inbound(session, 'x'.repeat(900_000)))).rejects.toMatchObject({
      code: 'INTERNAL_ERROR',
    });
    const large = inbound(session, 'x'.repeat(1_500_000), { topic: 'conversation.inbound.dlq' });
    await process.database.transaction((tx) =>
      putRows(tx, null, [{ ...toRecord(large, undefined), tenant: 'acme', eventId: large.eventId }]),
    );
  });

  it("sends what another writer has left before this process's first direct record of the key", async () => {
    const [before, holder] = [outbox.start(), outbox.start()];
    const session = newId();
    const key = `acme:${session}`;
    const outbound = (text: string) => inbound(session, text, { topic: 'conversation.outbound' });
    await outbox.putByHand(before, outbound('1 final of the old holder')); // never told to its process: it died
    await outbox.put(holder, outbound('2 turn.started'));
    await holder.messaging.outbox.adopt('conversation.outbound', key);
    const value = (text: string) => ({ message: text });
    await holder.messaging.producer.direct({
      topic: 'conversation.outbound',
      key,
      headers: {},
      value: value('3 delta'),
    });
    await outbox.put(holder, outbound('4 final'));
    await holder.messaging.producer.direct({
      topic: 'conversation.outbound',
      key,
      headers: {},
      value: value('5 delta'),
    });
    const log = await outbox.stack.read('conversation.outbound');
    expect(firstCopies(log, key)).toEqual([
      '1 final of the old holder',
      '2 turn.started',
      '3 delta',
      '4 final',
      '5 delta',
    ]);
  });

  it('shares the slots and gives every one of them to somebody', async () => {
    const process = outbox.start();
    const [a, b, c] = [newId(), newId(), newId()];
    for (let round = 0; round < 3; round += 1)
      for (const owner of [a, b, c]) await leaseSlots(process.database, owner, 5_000);
    const held = await Promise.all([a, b, c].map((owner) => leaseSlots(process.database, owner, 5_000)));
    expect(held.map(({ length }) => length).every((length) => length >= 20 && length <= 22)).toBe(true);
    expect(new Set(held.flat()).size).toBe(64);
  });

  it('no service role can read the tables, or take another way in than the functions', async () => {
    const process = outbox.start();
    for (const table of ['outbox', 'inbox', 'dead_letters', 'outbox_slots', 'outbox_relays']) {
      await expect(process.database.query(`select * from messaging.${table}`)).rejects.toMatchObject({
        cause: { code: '42501' },
      });
    }
  });
});
