import { newId } from '@signalbox/contracts/ids';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { waitFor } from '@signalbox/testkit/wait';
import { describe, expect, it } from 'vitest';
import { outboxStack, slots } from '../test/outbox-stack.ts';
import { firstCopies, inbound } from '../test/stack.ts';
import { putRows, staleRows } from './outbox-sql.ts';
import { toRecord } from './outgoing.ts';

const outbox = outboxStack();

describe('the outbox when something is away', () => {
  it('gives rows up when the broker stays away, and goes on with new rows only behind them', async () => {
    const process = outbox.start(outbox.behindProxy());
    const relay = outbox.start();
    const session = newId();
    await outbox.put(process, inbound(session, 'warm'));
    await outbox.emptied(session);
    await outbox.proxy.refuse();
    await outbox.put(process, inbound(session, 'one'), inbound(session, 'two'));
    await waitFor(
      () => outbox.rows(session),
      (left) => left.length === 2 && left.every(({ writer }) => writer === null),
      { label: 'given up' },
    );
    await outbox.put(process, inbound(session, 'three'));
    await outbox.proxy.heal();
    await outbox.put(process, inbound(session, 'four'));
    expect((await outbox.rows(session)).every(({ writer }) => writer === null)).toBe(true);
    await outbox.relaySends(relay, await outbox.relayReads(relay, session));
    await waitFor(
      () => process.messaging.outbox.writer,
      (writer) => writer === process.instanceId,
      { label: 'the fast path is tried again' },
    );
    await outbox.put(process, inbound(session, 'five'));
    await outbox.emptied(session);
    expect(await outbox.published(session)).toEqual(['warm', 'one', 'two', 'three', 'four', 'five']);
  });

  it('a row put while its key is being given up is given up too, or fast behind it: never between', async () => {
    const process = outbox.start(outbox.behindProxy());
    const relay = outbox.start();
    const sessions = Array.from({ length: 10 }, () => newId());
    for (const session of sessions) await outbox.put(process, inbound(session, '0'));
    await Promise.all(sessions.map(outbox.emptied));
    await outbox.proxy.refuse();
    const texts: string[] = ['0'];
    for (let n = 1; n <= 30; n += 1) {
      await outbox.put(process, ...sessions.map((session) => inbound(session, String(n))));
      texts.push(String(n));
      if (n === 20) await outbox.proxy.heal();
      if (n % 5 === 0)
        for (const session of sessions)
          await outbox.relaySends(relay, await outbox.relayReads(relay, session));
      await new Promise((resolve) => setTimeout(resolve, 60));
    }
    for (const session of sessions) await outbox.relaySends(relay, await outbox.relayReads(relay, session));
    await Promise.all(sessions.map(outbox.emptied));
    for (const session of sessions) expect(await outbox.published(session)).toEqual(texts);
  });

  it('a process killed between its commit and the send: the relay finds the row when it is old enough', async () => {
    const process = outbox.start();
    const session = newId();
    await outbox.putByHand(process, inbound(session, 'orphan'));
    expect(await outbox.relayReads(process, session)).toEqual([]);
    await new Promise((resolve) => setTimeout(resolve, 60));
    await outbox.relaySends(process, await outbox.relayReads(process, session, 50));
    expect(await outbox.published(session)).toEqual(['orphan']);
  });

  it('a relay killed between send and delete repeats, and a slow one never puts an older record first', async () => {
    const [fast, slow] = [outbox.start(), outbox.start()];
    const session = newId();
    await outbox.stack.database.query('select 1');
    const dead = newId();
    for (const text of ['one', 'two']) {
      const message = inbound(session, text);
      const record = { ...toRecord(message, undefined), tenant: 'acme', eventId: message.eventId };
      await fast.database.transaction((tx) => putRows(tx, dead, [record]));
    }
    const read = await outbox.relayReads(slow, session, 0);
    expect(read.length).toBe(2);
    await outbox.relaySends(fast, await outbox.relayReads(fast, session, 0)); // another relay was quicker
    await outbox.put(fast, inbound(session, 'three'));
    await outbox.emptied(session);
    await outbox.relaySends(slow, read); // the slow one sends what it has read long ago
    const log = (await outbox.stack.read('conversation.inbound')).filter(
      ({ key }) => key === `acme:${session}`,
    );
    expect(log.length).toBe(5);
    expect(await outbox.published(session)).toEqual(['one', 'two', 'three']);
  });

  it('a row that the broker refuses alone becomes a dead letter, and its key goes on', async () => {
    const process = outbox.start();
    const session = newId();
    const admin = outbox.stack.kafka().admin();
    await admin.connect();
    await admin.alterConfigs({
      validateOnly: false,
      resources: [
        {
          type: 2,
          name: `${outbox.stack.topics.prefix}conversation.inbound`,
          configEntries: [{ name: 'max.message.bytes', value: '100000' }],
        },
      ],
    });
    await admin.disconnect();
    await outbox.put(
      process,
      inbound(session, 'one'),
      inbound(session, 'x'.repeat(300_000)),
      inbound(session, 'two'),
    );
    await outbox.emptied(session);
    expect(await outbox.published(session)).toEqual(['one', 'two']);
    const letters = await outbox.stack.database.query<{ reason: string; consumer: string }>(
      'select reason, consumer from messaging.dead_letters where key = $1',
      [`acme:${session}`],
    );
    expect(letters).toEqual([{ reason: 'broker_refused', consumer: 'outbox' }]);
    // The dead letter's own message waits for the relay: it was put by nobody's fast path.
    const dlq = await waitFor(
      () => staleRows(process.database, slots, 0, 100, []),
      (found) => found.some(({ topic }) => topic === 'conversation.inbound.dlq'),
    );
    await outbox.relaySends(process, dlq);
  });

  it('direct records wait for rows of their key that went to the relay in the middle of a turn', async () => {
    const process = outbox.start(outbox.behindProxy());
    const session = newId();
    const key = `acme:${session}`;
    const outbound = (text: string) => inbound(session, text, { topic: 'conversation.outbound' });
    const delta = (text: string) =>
      process.messaging.producer.direct({
        topic: 'conversation.outbound',
        key,
        headers: {},
        value: { message: text },
      });
    await process.messaging.outbox.adopt('conversation.outbound', key);
    await delta('1');
    await outbox.proxy.refuse();
    await outbox.put(process, outbound('2'));
    const third = delta('3'); // queued behind row 2
    await waitFor(
      () => outbox.rows(session),
      (left) => left.every(({ writer }) => writer === null),
      { label: 'row 2 given up' },
    );
    await outbox.put(process, outbound('4')); // the relay's at once
    const fifth = delta('5');
    await outbox.proxy.heal();
    await Promise.all([third, fifth]);
    expect(firstCopies(await outbox.stack.read('conversation.outbound'), key)).toEqual([
      '1',
      '2',
      '3',
      '4',
      '5',
    ]);
  });

  it('is full past its bound, and is not any more when its rows are out; nobody knows while the database is away', async () => {
    await using database = await startFaultProxy({ url: outbox.stack.database.url });
    const options = outbox.behindProxy();
    const process = outbox.start({
      ...options,
      databaseUrl: database.url,
      settings: { ...options.settings, outboxMaxRows: 5, outboxFastMaxAgeMs: 60_000 },
    });
    const session = newId();
    const is = (full: boolean, pending: number | undefined) =>
      waitFor(
        () => ({ full: process.messaging.outbox.full, pending: process.messaging.outbox.load?.pending }),
        (now) => now.full === full && now.pending === pending,
        { label: `full: ${full}, pending: ${pending}` },
      );
    await outbox.put(process, inbound(session, 'warm'));
    await outbox.emptied(session);
    await is(false, 0);
    await outbox.proxy.refuse();
    await outbox.put(process, ...Array.from({ length: 5 }, (_, n) => inbound(session, String(n))));
    await is(false, 5);
    await outbox.put(process, inbound(session, '5'), inbound(session, '6'));
    await is(true, 6); // counted no further
    await database.refuse();
    await is(false, undefined);
    await database.heal();
    await is(true, 6);
    await outbox.proxy.heal();
    await outbox.emptied(session);
    await is(false, 0);
  });

  it('holds at most so many rows, and leaves the rest to the relay', async () => {
    const options = outbox.behindProxy();
    const process = outbox.start({
      ...options,
      settings: { ...options.settings, outboxFastMaxRows: 10, outboxFastMaxAgeMs: 60_000 },
    });
    await outbox.proxy.refuse();
    const session = newId();
    for (let n = 0; n < 3; n += 1) {
      await outbox.put(process, ...Array.from({ length: 8 }, (_, k) => inbound(session, String(n * 8 + k))));
    }
    const left = await waitFor(
      () => outbox.rows(session),
      (found) => found.some(({ writer }) => writer === null),
      { label: 'given up' },
    );
    expect(left.length).toBe(24);
    await outbox.proxy.heal();
  });
});
