import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { waitFor } from '@signalbox/testkit/wait';
import { describe, expect, it } from 'vitest';
import { outboxStack } from '../test/outbox-stack.ts';
import { firstCopies, inbound, type Process } from '../test/stack.ts';

const outbox = outboxStack();
const topic = 'conversation.outbound';
const outbound = (session: string, text: string) => inbound(session, text, { topic });
const delta = (process: Process, session: string, text: string) =>
  process.messaging.producer.direct({
    topic,
    key: `acme:${session}`,
    headers: {},
    value: { message: text },
  });
const inLog = async (session: string) => firstCopies(await outbox.stack.read(topic), `acme:${session}`);
const unknown = fault('DATABASE_UNAVAILABLE', 'no answer', { details: { outcome: 'unknown' } });
const lastOwn = async (process: Process, session: string) =>
  (
    await process.database.query<{ id: string | null }>(
      'select messaging.outbox_last_own($1, $2, $3) as id',
      [process.instanceId, topic, `acme:${session}`],
    )
  )[0]?.id ?? null;

describe('a row of this process whose commit was not answered', () => {
  it('goes out before the next direct record of its key, and its late answer changes nothing', async () => {
    const process = outbox.start();
    const session = newId();
    await delta(process, session, '1');
    const lost = await outbox.putByHand(process, outbound(session, '2'));
    process.messaging.outbox.failed([lost], unknown);
    await delta(process, session, '3');
    process.messaging.outbox.committed([lost]);
    await delta(process, session, '4');
    await outbox.emptied(session);
    expect(await inLog(session)).toEqual(['1', '2', '3', '4']);
  });

  it('is not known to it while its answer is on the way, and an adoption sends it first', async () => {
    const process = outbox.start();
    const session = newId();
    const knows = async () =>
      process.messaging.outbox.knows(topic, `acme:${session}`, await lastOwn(process, session));
    expect(await knows()).toBe(true);
    const late = await outbox.putByHand(process, outbound(session, '1'));
    expect(await knows()).toBe(false);
    await process.messaging.outbox.adopt(topic, `acme:${session}`);
    await delta(process, session, '2');
    process.messaging.outbox.committed([late]);
    await outbox.put(process, outbound(session, '3'));
    expect(await knows()).toBe(true);
    await outbox.emptied(session);
    expect(await inLog(session)).toEqual(['1', '2', '3']);
  });

  it('is left to the relay with the rows behind it, from the lowest on', async () => {
    const process = outbox.start({ settings: { outboxFastMaxAgeMs: 300 } });
    const session = newId();
    await delta(process, session, '0');
    await outbox.putByHand(process, outbound(session, '1')); // nobody is told of it
    await outbox.put(process, outbound(session, '2'));
    const left = await waitFor(
      () => outbox.rows(session),
      (rows) => rows.some(({ writer }) => writer === null),
      { label: 'given up' },
    );
    expect(left.map(({ writer }) => writer)).toEqual([null, null]);
    await delta(process, session, '3');
    expect(await inLog(session)).toEqual(['0', '1', '2', '3']);
  });

  it('is the relay’s as soon as the database answers again, not only when it is old', async () => {
    await using proxy = await startFaultProxy({ url: outbox.stack.database.url });
    const process = outbox.start({ databaseUrl: proxy.url });
    const session = newId();
    await delta(process, session, '0');
    const lost = process.database.transaction(
      async (tx) => {
        await process.messaging.outbox.put(tx, [outbound(session, '1')]);
        proxy.blackhole('to-client');
      },
      { timeoutMs: 500 },
    );
    await expect(lost).rejects.toMatchObject({ details: { outcome: 'unknown' } });
    await proxy.heal();
    await waitFor(
      () => outbox.rows(session),
      (rows) => rows.length === 1 && rows[0]?.writer === null,
      { timeoutMs: 4_000, label: 'given up' },
    );
    await delta(process, session, '2');
    expect(await inLog(session)).toEqual(['0', '1', '2']);
  });
});

it('an adoption that begins while a stop gives its key up ends', async () => {
  const process = outbox.start(outbox.behindProxy());
  const session = newId();
  const other = newId();
  await outbox.put(process, outbound(session, 'warm'));
  await outbox.emptied(session);
  await outbox.proxy.refuse();
  // The key's lock is held, so that giving it up takes a while.
  const holder = outbox.stack.openDatabase();
  const released = Promise.withResolvers<void>();
  const locked = Promise.withResolvers<void>();
  await outbox.put(process, outbound(session, '1'));
  const holding = holder.transaction(async (tx) => {
    await tx.query('select messaging.outbox_lock($1, $2)', [[topic], [`acme:${session}`]]);
    locked.resolve();
    await released.promise;
  });
  await locked.promise;
  await new Promise((resolve) => setTimeout(resolve, 200));
  await outbox.put(process, outbound(other, 'given up by the stop')); // not old enough to be given up with the first
  await waitFor(
    () =>
      outbox.stack.database.query(
        "select 1 from pg_stat_activity where wait_event = 'advisory' and query like '%outbox_give_up%'",
      ),
    (rows) => rows.length > 0,
    { label: 'the key is being given up' },
  );
  const drained = process.messaging.outbox.drain(AbortSignal.timeout(200));
  await new Promise((resolve) => setTimeout(resolve, 400));
  const adopted = process.messaging.outbox.adopt(topic, `acme:${session}`, AbortSignal.timeout(8_000));
  await new Promise((resolve) => setTimeout(resolve, 500)); // the event loop turns meanwhile
  released.resolve();
  await outbox.proxy.heal();
  await Promise.all([holding, drained, adopted]);
  expect(await inLog(session)).toEqual(['warm', '1']);
  await holder.close();
});
