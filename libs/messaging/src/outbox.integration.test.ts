import { newId } from '@signalbox/contracts/ids';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { firstCopies, inbound, type Process, type ProcessOptions, Stack } from '../test/stack.ts';
import type { PutResult } from './messaging.ts';
import { deleteRows, leaseSlots, putRows, type StoredRow, staleRows } from './outbox-sql.ts';
import { type OutgoingMessage, toRecord } from './outgoing.ts';
import { sendRow } from './row-sending.ts';

let stack: Stack;
let proxy: FaultProxy;
const open = new Set<Process>();
const slots = Array.from({ length: 64 }, (_, slot) => slot);

beforeAll(async () => {
  stack = await Stack.create('conversation.inbound', 'conversation.outbound');
  const [host = '', port = ''] = testInfra().kafka.split(':');
  proxy = await startFaultProxy({ host, port: Number(port), kafka: true });
});
afterEach(async () => {
  await proxy.heal();
  await Promise.all([...open].map((process) => process.close()));
  open.clear();
  await stack.database.query('delete from messaging.outbox');
});
afterAll(async () => {
  await proxy?.close();
  await stack?.drop();
});

function start(options: ProcessOptions = {}): Process {
  const process = stack.process(options);
  open.add(process);
  return process;
}

const behindProxy = (): ProcessOptions => ({
  bootstrap: proxy.address,
  settings: { kafkaRequestTimeoutMs: 500, kafkaConnectionTimeoutMs: 300, outboxFastMaxAgeMs: 600 },
});

interface Row {
  id: string;
  writer: string | null;
}
const rows = (session: string) =>
  stack.database.query<Row>(
    "select id, writer from messaging.outbox where key = $1 and topic not like '%.dlq' order by id",
    [`acme:${session}`],
  );
const emptied = (session: string) =>
  waitFor(
    () => rows(session),
    (left) => left.length === 0,
    { label: 'the rows of the session sent and deleted' },
  );
const put = (process: Process, ...messages: OutgoingMessage[]) =>
  process.database.transaction((tx) => process.messaging.outbox.put(tx, messages));
const published = async (session: string) =>
  firstCopies(await stack.read('conversation.inbound'), `acme:${session}`);

/** Puts rows as a service's own SQL function does: the process is told of them by hand, when the test wants. */
async function putByHand(process: Process, message: OutgoingMessage): Promise<PutResult> {
  const record = { ...toRecord(message, undefined), tenant: message.tenant, eventId: message.eventId };
  const [row] = await process.database.transaction((tx) => putRows(tx, process.instanceId, [record]));
  if (row === undefined) throw new Error('no row');
  return { ...record, ...row };
}

/** One round of a relay, by hand: what it reads, and how it goes on with it. */
async function relayReads(process: Process, session: string, staleMs = 5_000): Promise<StoredRow[]> {
  return (await staleRows(process.database, slots, staleMs, 1_000, [])).filter(
    ({ key }) => key === `acme:${session}`,
  );
}
async function relaySends(process: Process, read: readonly StoredRow[]): Promise<void> {
  await Promise.all(
    read.map(
      (row) =>
        new Promise<void>((resolve, reject) =>
          process.messaging.producer.enqueue(
            sendRow(row, 'relay', { sent: () => resolve(), refused: reject }),
          ),
        ),
    ),
  );
  await deleteRows(process.database, read);
}

describe('the outbox', () => {
  it('publishes what transactions put, in order, and deletes the rows', async () => {
    const process = start();
    const session = newId();
    await put(process, inbound(session, 'one'), inbound(session, 'two'));
    await put(process, inbound(session, 'three'));
    await emptied(session);
    expect(await published(session)).toEqual(['one', 'two', 'three']);
  });

  it('publishes nothing of a transaction that failed', async () => {
    const process = start();
    const session = newId();
    await expect(
      process.database.transaction(async (tx) => {
        await process.messaging.outbox.put(tx, [inbound(session, 'never')]);
        throw new Error('no');
      }),
    ).rejects.toThrow('no');
    await put(process, inbound(session, 'kept'));
    await emptied(session);
    expect(await published(session)).toEqual(['kept']);
  });

  it('two commits of one process that come back out of order are queued in id order', async () => {
    const process = start();
    const session = newId();
    const first = await putByHand(process, inbound(session, 'one'));
    const second = await putByHand(process, inbound(session, 'two'));
    expect(second.prevId).toBe(first.id);
    process.messaging.outbox.committed([second]);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(await published(session)).toEqual([]);
    process.messaging.outbox.committed([first]);
    await emptied(session);
    expect(await published(session)).toEqual(['one', 'two']);
  });

  it('a row whose predecessor never comes back is left to the relay, which sends both in order', async () => {
    const process = start({ settings: { outboxFastMaxAgeMs: 300 } });
    const session = newId();
    await putByHand(process, inbound(session, 'one')); // its commit's answer was lost
    process.messaging.outbox.committed([await putByHand(process, inbound(session, 'two'))]);
    await waitFor(
      () => rows(session),
      (left) => left.some(({ writer }) => writer === null),
      { label: 'given up' },
    );
    await relaySends(process, await relayReads(process, session));
    expect(await published(session)).toEqual(['one', 'two']);
  });

  it('a row behind one of another writer takes no fast path', async () => {
    const [a, b] = [start(), start()];
    const session = newId();
    const first = await putByHand(a, inbound(session, 'one'));
    await put(b, inbound(session, 'two'));
    expect((await rows(session)).map(({ writer }) => writer)).toEqual([a.instanceId, null]);
    const third = await putByHand(a, inbound(session, 'three'));
    expect(third.fast).toBe(false);
    a.messaging.outbox.committed([first, third]);
    await relaySends(b, await relayReads(b, session));
    await emptied(session);
    expect(await published(session)).toEqual(['one', 'two', 'three']);
  });

  it('two writers on one key: the one that waits for the lock sees what the other has put', async () => {
    const [a, b] = [start(), start()];
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
    const writers = [start(), start(), start()];
    const relay = start();
    const sessions = Array.from({ length: 20 }, () => newId());
    const stop = new AbortController();
    const relaying = (async () => {
      while (!stop.signal.aborted) {
        const read = (await staleRows(relay.database, slots, 200, 200, [])).filter(({ key }) =>
          sessions.includes(key.slice(5)),
        );
        if (Math.random() < 0.3) await new Promise((resolve) => setTimeout(resolve, 20)); // a slow one
        await relaySends(relay, read);
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
            await put(process, ...picked.map((session) => inbound(session, '', { requestId: `${w}-${n}` })));
        }
      }),
    );
    await Promise.all(sessions.map(emptied));
    stop.abort();
    await relaying;
    const log = await stack.read('conversation.inbound');
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

  it('gives rows up when the broker stays away, and goes on with new rows only behind them', async () => {
    const process = start(behindProxy());
    const relay = start();
    const session = newId();
    await put(process, inbound(session, 'warm'));
    await emptied(session);
    await proxy.refuse();
    await put(process, inbound(session, 'one'), inbound(session, 'two'));
    await waitFor(
      () => rows(session),
      (left) => left.length === 2 && left.every(({ writer }) => writer === null),
      { label: 'given up' },
    );
    await put(process, inbound(session, 'three'));
    await proxy.heal();
    await put(process, inbound(session, 'four'));
    expect((await rows(session)).every(({ writer }) => writer === null)).toBe(true);
    await relaySends(relay, await relayReads(relay, session));
    await waitFor(
      () => process.messaging.outbox.writer,
      (writer) => writer === process.instanceId,
      { label: 'the fast path is tried again' },
    );
    await put(process, inbound(session, 'five'));
    await emptied(session);
    expect(await published(session)).toEqual(['warm', 'one', 'two', 'three', 'four', 'five']);
  });

  it('a row put while its key is being given up is given up too, or fast behind it: never between', async () => {
    const process = start(behindProxy());
    const relay = start();
    const sessions = Array.from({ length: 10 }, () => newId());
    for (const session of sessions) await put(process, inbound(session, '0'));
    await Promise.all(sessions.map(emptied));
    await proxy.refuse();
    const texts: string[] = ['0'];
    for (let n = 1; n <= 30; n += 1) {
      await put(process, ...sessions.map((session) => inbound(session, String(n))));
      texts.push(String(n));
      if (n === 20) await proxy.heal();
      if (n % 5 === 0)
        for (const session of sessions) await relaySends(relay, await relayReads(relay, session));
      await new Promise((resolve) => setTimeout(resolve, 60));
    }
    for (const session of sessions) await relaySends(relay, await relayReads(relay, session));
    await Promise.all(sessions.map(emptied));
    for (const session of sessions) expect(await published(session)).toEqual(texts);
  });

  it('a process killed between its commit and the send: the relay finds the row when it is old enough', async () => {
    const process = start();
    const session = newId();
    await putByHand(process, inbound(session, 'orphan'));
    expect(await relayReads(process, session)).toEqual([]);
    await new Promise((resolve) => setTimeout(resolve, 60));
    await relaySends(process, await relayReads(process, session, 50));
    expect(await published(session)).toEqual(['orphan']);
  });

  it('a relay killed between send and delete repeats, and a slow one never puts an older record first', async () => {
    const [fast, slow] = [start(), start()];
    const session = newId();
    await stack.database.query('select 1');
    const dead = newId();
    for (const text of ['one', 'two']) {
      const message = inbound(session, text);
      const record = { ...toRecord(message, undefined), tenant: 'acme', eventId: message.eventId };
      await fast.database.transaction((tx) => putRows(tx, dead, [record]));
    }
    const read = await relayReads(slow, session, 0);
    expect(read.length).toBe(2);
    await relaySends(fast, await relayReads(fast, session, 0)); // another relay was quicker
    await put(fast, inbound(session, 'three'));
    await emptied(session);
    await relaySends(slow, read); // the slow one sends what it has read long ago
    const log = (await stack.read('conversation.inbound')).filter(({ key }) => key === `acme:${session}`);
    expect(log.length).toBe(5);
    expect(await published(session)).toEqual(['one', 'two', 'three']);
  });

  it('a row that the broker refuses alone becomes a dead letter, and its key goes on', async () => {
    const process = start();
    const session = newId();
    const admin = stack.kafka().admin();
    await admin.connect();
    await admin.alterConfigs({
      validateOnly: false,
      resources: [
        {
          type: 2,
          name: `${stack.topics.prefix}conversation.inbound`,
          configEntries: [{ name: 'max.message.bytes', value: '100000' }],
        },
      ],
    });
    await admin.disconnect();
    await put(
      process,
      inbound(session, 'one'),
      inbound(session, 'x'.repeat(300_000)),
      inbound(session, 'two'),
    );
    await emptied(session);
    expect(await published(session)).toEqual(['one', 'two']);
    const letters = await stack.database.query<{ reason: string; consumer: string }>(
      'select reason, consumer from messaging.dead_letters where key = $1',
      [`acme:${session}`],
    );
    expect(letters).toEqual([{ reason: 'broker_refused', consumer: 'outbox' }]);
    // The dead letter's own message waits for the relay: it was put by nobody's fast path.
    const dlq = await waitFor(
      () => staleRows(process.database, slots, 0, 100, []),
      (found) => found.some(({ topic }) => topic === 'conversation.inbound.dlq'),
    );
    await relaySends(process, dlq);
  });

  it('refuses a row over 900 kB, and takes one four times as large for a dead letter', async () => {
    const process = start();
    const session = newId();
    await expect(put(process, inbound(session, 'x'.repeat(900_000)))).rejects.toMatchObject({
      code: 'INTERNAL_ERROR',
    });
    const large = inbound(session, 'x'.repeat(1_500_000), { topic: 'conversation.inbound.dlq' });
    await process.database.transaction((tx) =>
      putRows(tx, null, [{ ...toRecord(large, undefined), tenant: 'acme', eventId: large.eventId }]),
    );
  });

  it("sends what another writer has left before this process's first direct record of the key", async () => {
    const [before, holder] = [start(), start()];
    const session = newId();
    const key = `acme:${session}`;
    const outbound = (text: string) => inbound(session, text, { topic: 'conversation.outbound' });
    await putByHand(before, outbound('1 final of the old holder')); // never told to its process: it died
    await put(holder, outbound('2 turn.started'));
    await holder.messaging.outbox.adopt('conversation.outbound', key);
    const value = (text: string) => ({ message: text });
    await holder.messaging.producer.direct({
      topic: 'conversation.outbound',
      key,
      headers: {},
      value: value('3 delta'),
    });
    await put(holder, outbound('4 final'));
    await holder.messaging.producer.direct({
      topic: 'conversation.outbound',
      key,
      headers: {},
      value: value('5 delta'),
    });
    const log = await stack.read('conversation.outbound');
    expect(firstCopies(log, key)).toEqual([
      '1 final of the old holder',
      '2 turn.started',
      '3 delta',
      '4 final',
      '5 delta',
    ]);
  });

  it('direct records wait for rows of their key that went to the relay in the middle of a turn', async () => {
    const process = start(behindProxy());
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
    await proxy.refuse();
    await put(process, outbound('2'));
    const third = delta('3'); // queued behind row 2
    await waitFor(
      () => rows(session),
      (left) => left.every(({ writer }) => writer === null),
      { label: 'row 2 given up' },
    );
    await put(process, outbound('4')); // the relay's at once
    const fifth = delta('5');
    await proxy.heal();
    await Promise.all([third, fifth]);
    expect(firstCopies(await stack.read('conversation.outbound'), key)).toEqual(['1', '2', '3', '4', '5']);
  });

  it('holds at most so many rows, and leaves the rest to the relay', async () => {
    const options = behindProxy();
    const process = start({
      ...options,
      settings: { ...options.settings, outboxFastMaxRows: 10, outboxFastMaxAgeMs: 60_000 },
    });
    await proxy.refuse();
    const session = newId();
    for (let n = 0; n < 3; n += 1) {
      await put(process, ...Array.from({ length: 8 }, (_, k) => inbound(session, String(n * 8 + k))));
    }
    const left = await waitFor(
      () => rows(session),
      (found) => found.some(({ writer }) => writer === null),
      { label: 'given up' },
    );
    expect(left.length).toBe(24);
    await proxy.heal();
  });

  it('shares the slots and gives every one of them to somebody', async () => {
    const process = start();
    const [a, b, c] = [newId(), newId(), newId()];
    for (let round = 0; round < 3; round += 1)
      for (const owner of [a, b, c]) await leaseSlots(process.database, owner, 5_000);
    const held = await Promise.all([a, b, c].map((owner) => leaseSlots(process.database, owner, 5_000)));
    expect(held.map(({ length }) => length).every((length) => length >= 20 && length <= 22)).toBe(true);
    expect(new Set(held.flat()).size).toBe(64);
  });

  it('no service role can read the tables, or take another way in than the functions', async () => {
    const process = start();
    for (const table of ['outbox', 'inbox', 'dead_letters', 'outbox_slots', 'outbox_relays']) {
      await expect(process.database.query(`select * from messaging.${table}`)).rejects.toMatchObject({
        cause: { code: '42501' },
      });
    }
  });
});
