import { newId } from '@signalbox/contracts/ids';
import type { TopicName } from '@signalbox/contracts/topics';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { fileLetter } from '../test/file-letter.ts';
import { relayOnce } from '../test/relay.ts';
import { inbound, type Process, type ReadRecord, Stack, textOf } from '../test/stack.ts';
import { type DeadLetters, deadLetters, type ReplayOrder, unknownTenant } from './dead-letter-store.ts';
import type { DeadLetter } from './dead-letters.ts';

let stack: Stack;
let process: Process;
let store: DeadLetters;
beforeAll(async () => {
  stack = await Stack.create('conversation.inbound', 'conversation.outbound', 'tool.catalog');
  process = stack.process();
  store = deadLetters(process.database, process.log);
});
afterAll(() => stack?.drop());
beforeEach(() => stack.database.query('delete from messaging.dead_letters'));

const file = (session: string, text: string, more: Partial<DeadLetter> = {}) =>
  fileLetter(process, session, text, more);
const replay = (order: Partial<ReplayOrder> & { id: string }) =>
  process.database.transaction((tx) =>
    store.replay(tx, { tenant: 'acme', by: 'key:k1', source: 'test', ...order }),
  );
const list = (tenant: string, topic?: TopicName) =>
  store.list({ tenant, topic, state: 'waiting', limit: 100 });
const outboxOf = (session: string) =>
  stack.database.query<{ value: Buffer; headers: Record<string, string>; tenant: string }>(
    `select value, headers, tenant from messaging.outbox where key = $1 and topic not like '%.dlq' order by id`,
    [`acme:${session}`],
  );
/** First copies: a relay repeats what a fast path has sent and not deleted yet. */
async function recordsOf(session: string): Promise<ReadRecord[]> {
  const records = await stack.read('conversation.inbound');
  const first = new Map(
    records
      .filter(({ key }) => key === `acme:${session}`)
      .reverse()
      .map((record) => [record.headers.event_id, record]),
  );
  return [...first.values()].reverse();
}

describe('looking at dead letters', () => {
  it('lists those of a tenant and topic, newest first, in pages, without anything people wrote', async () => {
    const session = newId();
    const ids: string[] = [];
    for (const text of ['secret one', 'secret two', 'secret three']) ids.push(await file(session, text));
    await file(session, 'elsewhere', { topic: 'tool.catalog' });
    await file(session, 'not ours', { tenant: 'globex' });
    const first = await store.list({
      ...{ tenant: 'acme', topic: 'conversation.inbound', state: 'waiting', limit: 2 },
    });
    expect(first.map(({ id }) => id)).toEqual([ids[2], ids[1]]);
    const second = await store.list({
      ...{ tenant: 'acme', topic: 'conversation.inbound', state: 'waiting', limit: 2, before: ids[1] },
    });
    expect(second.map(({ id }) => id)).toEqual([ids[0]]);
    expect((await list('acme')).length).toBe(4);
    expect(first[0]).toMatchObject({
      ...{ reason: 'handler', consumer: 'a.group', attempts: 2, eventType: 'message.posted' },
      ...{ place: { partition: 3, offset: expect.any(BigInt) }, replayOf: null, replayedAt: null },
    });
    const shown = JSON.stringify(first, (_, value) => (typeof value === 'bigint' ? String(value) : value));
    expect(shown).not.toMatch(/secret|it said no/);
  });

  it('gives one whole to its tenant and under its topic only', async () => {
    const session = newId();
    const id = await file(session, 'hello');
    const whole = await store.get({ tenant: 'acme', id });
    expect(JSON.parse(whole?.value?.toString() ?? '')).toMatchObject({ message: 'hello' });
    expect(whole).toMatchObject({ detail: 'it said no', tenant: 'acme', key: `acme:${session}` });
    expect(await store.get({ tenant: 'globex', id })).toBeUndefined();
    expect(await store.get({ tenant: unknownTenant, id })).toBeUndefined();
    expect(await store.get({ tenant: 'acme', topic: 'tool.catalog', id })).toBeUndefined();
  });

  it('shows an operator what waits of whom; a service may neither ask for that nor read the table', async () => {
    await file(newId(), 'a');
    await file(newId(), 'b', { tenant: unknownTenant, reason: 'bad_key' });
    const owner = deadLetters(stack.openDatabase(stack.database.ownerUrl), process.log);
    expect(await owner.overview()).toMatchObject([
      { tenant: unknownTenant, topic: 'conversation.inbound', reason: 'bad_key', waiting: 1 },
      { tenant: 'acme', topic: 'conversation.inbound', reason: 'handler', waiting: 1 },
    ]);
    await expect(store.overview()).rejects.toThrow();
    await expect(process.database.query('select from messaging.dead_letters')).rejects.toThrow();
    const rights = await stack.database.query<{ role: string; may: string[] }>(
      `select r.role, array_agg(p.proname::text order by p.proname) as may
       from unnest(array['signalbox_conversation_worker', 'signalbox_outbox_sync']) r(role),
         pg_proc p join pg_namespace n on n.oid = p.pronamespace
       where n.nspname = 'messaging' and p.proname like 'dead_letter%' and has_function_privilege(r.role, p.oid, 'execute')
       group by r.role order by r.role`,
    );
    expect(rights).toEqual([
      { role: 'signalbox_conversation_worker', may: ['dead_letter_depth', 'dead_letter_put'] },
      {
        role: 'signalbox_outbox_sync',
        may: ['dead_letter_depth', 'dead_letter_prune', 'dead_letter_put'],
      },
    ]);
  });
});

describe('a replay', () => {
  it('is a new event with the old key, bytes and headers, at the end of its session', async () => {
    const session = newId();
    const id = await file(session, 'poisoned');
    const put = (text: string) =>
      process.database.transaction((tx) => process.messaging.outbox.put(tx, [inbound(session, text)]));
    const before = await store.get({ tenant: 'acme', id });
    await put('before');
    const replayed = await replay({ id });
    await put('after'); // behind the replay, although a fast path would be quicker than the relay
    await waitFor(
      async () => {
        await relayOnce(process);
        return recordsOf(session);
      },
      (records) => records.length === 3,
      { label: 'all three' },
    );
    const records = await recordsOf(session);
    expect(records.map(textOf)).toEqual(['before', 'poisoned', 'after']);
    const headers = records[1]?.headers ?? {};
    expect(records[1]?.value).toBe(before?.value?.toString());
    expect(headers).toMatchObject({
      ...{ event_id: replayed.eventId, ce_id: replayed.eventId, replay_of: before?.eventId },
      ...{ event_type: 'message.posted', schema: 'conversation.inbound.v1', tenant_id: 'acme' },
      ...{ session_id: session, ce_source: 'test' },
    });
    expect(replayed.eventId).not.toBe(before?.eventId);
    expect(Date.parse(headers.occurred_at ?? '')).toBeGreaterThan(
      Date.parse(before?.headers.occurred_at ?? ''),
    );
    expect(await list('acme')).toEqual([]);
    expect(await store.get({ tenant: 'acme', id })).toMatchObject({
      replayedAs: replayed.eventId,
      replayedBy: 'key:k1',
    });
    expect(process.log.lines.find(({ event }) => event === 'dead_letter.replayed')?.fields).toMatchObject({
      deadLetterId: id,
      eventId: replayed.eventId,
      by: 'key:k1',
      corrected: false,
    });
  });

  it('happens once, also when two ask at once; the second is told what the first became', async () => {
    const session = newId();
    const id = await file(session, 'once');
    const both = await Promise.allSettled([replay({ id }), replay({ id })]);
    const [done] = both.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
    const [refused] = both.flatMap((each) => (each.status === 'rejected' ? [each.reason] : []));
    expect(refused).toMatchObject({ code: 'CONFLICT' });
    expect(String(refused.message)).toContain(done?.eventId);
    expect(await outboxOf(session)).toHaveLength(1);
  });

  it('is undone with the transaction it is in', async () => {
    const session = newId();
    const id = await file(session, 'not now');
    const failing = process.database.transaction(async (tx) => {
      await store.replay(tx, { tenant: 'acme', id, by: 'key:k1', source: 'test' });
      throw new Error('the caller gives up');
    });
    await expect(failing).rejects.toThrow('the caller gives up');
    expect(await outboxOf(session)).toEqual([]);
    expect(await list('acme')).toHaveLength(1);
  });

  it('names the dead letter where the record had no event id of its own', async () => {
    const session = newId();
    const id = await file(session, 'nameless', { eventId: undefined });
    await replay({ id });
    expect((await outboxOf(session))[0]?.headers.replay_of).toBe(id);
  });

  it('says the identity anew: tenant and session come from the key, other headers stay', async () => {
    const session = newId();
    const id = await file(session, 'x', {
      headers: {
        ...{ tenant_id: 'globex', session_id: newId(), event_id: 'none', tracestate: 'a=b', 'x-own': 'kept' },
        ...{ event_type: 'message.posted', schema: 'conversation.inbound.v1', 'x-request-id': 'r1' },
      },
    });
    await replay({ id });
    const [row] = await outboxOf(session);
    expect(row?.headers).toMatchObject({
      ...{ tenant_id: 'acme', session_id: session, 'x-own': 'kept', 'x-request-id': 'r1' },
    });
    expect(row?.headers.tracestate).toBeUndefined();
  });

  it('takes a corrected value that fits the schema, and refuses another with its places', async () => {
    const session = newId();
    const value = inbound(session, 'put right').value ?? {};
    const id = await file(session, '', {
      value: Buffer.from('{"not json'),
      headers: { event_type: 'message.posted', schema: 'conversation.inbound.v99', key_id: 'k1' },
    });
    const refused = (correction: ReplayOrder['correction'], path: string) =>
      expect(replay({ id, correction })).rejects.toMatchObject({
        code: 'VALIDATION_ERROR',
        errors: [{ path }],
      });
    await refused({ value: { ...value, message: 7 } }, '/value/message');
    await refused({ value: { ...value, session_id: newId() } }, '/value/session_id');
    await refused({ value: { ...value, metadata: { a: 'NUL \u0000' } } }, '/value');
    await refused({ value, eventType: 'constructor' }, '/event_type');
    await refused({ eventType: 'message.posted' }, '/value');
    await refused({ value, key: `globex:${session}` }, '/key');
    await refused({ key: 'acme:no-session' }, '/key');
    expect(await outboxOf(session)).toEqual([]);
    await replay({ id, correction: { value } });
    const [row] = await outboxOf(session);
    expect(JSON.parse(row?.value.toString() ?? '')).toEqual(value);
    expect(row?.headers).toMatchObject({ schema: 'conversation.inbound.v1', event_type: 'message.posted' });
    expect(row?.headers.key_id).toBeUndefined();
  });

  it('of a record of nobody needs a key, which an operator gives', async () => {
    const session = newId();
    const id = await file(session, 'whose', { tenant: unknownTenant, key: Buffer.from('no colon') });
    const order = { id, tenant: unknownTenant, by: 'operator:me' };
    await expect(replay(order)).rejects.toMatchObject({ errors: [{ path: '/key' }] });
    await replay({ ...order, correction: { key: `acme:${session}` } });
    expect(await outboxOf(session)).toMatchObject([{ tenant: 'acme', headers: { tenant_id: 'acme' } }]);
  });

  it('of a piece of text is refused: the final of its turn has it', async () => {
    const id = await file(newId(), '', {
      topic: 'conversation.outbound',
      headers: { event_type: 'assistant.delta', schema: 'conversation.outbound.v1' },
    });
    await expect(replay({ id })).rejects.toMatchObject({ code: 'CONFLICT' });
  });

  it('of what the outbox cannot hold is refused, to the byte', async () => {
    const session = newId();
    const tries = { fits: 0, over: 0 };
    for (const bytes of [898_000, 898_900, 899_100, 899_250, 899_400, 900_000]) {
      const id = await file(session, '', { value: Buffer.alloc(bytes, 0x20) });
      try {
        await replay({ id });
        tries.fits += 1;
      } catch (error) {
        expect(error).toMatchObject({ code: 'BODY_TOO_LARGE' });
        tries.over += 1;
      }
    }
    expect(tries.fits).toBeGreaterThan(0);
    expect(tries.over).toBeGreaterThan(0);
  });

  it('works for a row that the broker refused', async () => {
    const session = newId();
    const id = await file(session, 'refused', {
      ...{ partition: -1, timestampMs: 0, consumer: 'outbox', reason: 'broker_refused' },
    });
    expect((await list('acme'))[0]?.place).toBeUndefined();
    await replay({ id });
    expect(await outboxOf(session)).toHaveLength(1);
  });

  it('of a tombstone keeps it one', async () => {
    const id = await file('stopwatch', '', {
      ...{ topic: 'tool.catalog', value: null, headers: { event_type: 'tool.catalogued' } },
      key: Buffer.from('acme:stopwatch'),
    });
    await replay({ id });
    const [row] = await outboxOf('stopwatch');
    expect(row?.value).toBeNull();
    expect(row?.headers.session_id).toBeUndefined();
  });

  it('is not another tenant’s, and not found twice', async () => {
    const id = await file(newId(), 'mine');
    await expect(replay({ id, tenant: 'globex' })).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(replay({ id, topic: 'tool.catalog' })).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(replay({ id: newId() })).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });
});

describe('a row that the broker refuses', () => {
  const takeUpTo = async (bytes: number) => {
    const admin = stack.kafka().admin();
    await admin.connect();
    const name = `${stack.topics.prefix}conversation.inbound`;
    const configEntries = [{ name: 'max.message.bytes', value: String(bytes) }];
    await admin.alterConfigs({ validateOnly: false, resources: [{ type: 2, name, configEntries }] });
    await admin.disconnect();
  };

  it('is replayed as it was, once the broker takes it', async () => {
    const session = newId();
    await takeUpTo(100_000);
    const message = inbound(session, 'x'.repeat(300_000));
    await process.database.transaction((tx) => process.messaging.outbox.put(tx, [message]));
    const [refused] = await waitFor(
      () => list('acme', 'conversation.inbound'),
      (found) => found.length === 1,
      { label: 'the dead letter' },
    );
    expect(refused).toMatchObject({ reason: 'broker_refused', place: undefined, eventId: message.eventId });
    await takeUpTo(1_048_576);
    await replay({ id: refused?.id ?? '' });
    const records = await waitFor(
      async () => {
        await relayOnce(process);
        return recordsOf(session);
      },
      (found) => found.length === 1,
      { label: 'the record' },
    );
    expect(records[0]?.headers.replay_of).toBe(message.eventId);
    expect(JSON.parse(records[0]?.value ?? '')).toEqual(message.value);
  });

  it('stays in the outbox while its dead letter cannot be stored, and its key goes on', async () => {
    const session = newId();
    await stack.database.query(
      `create function messaging.refuse() returns trigger language plpgsql as
         $$ begin raise exception 'no dead letters now'; end $$`,
    );
    await stack.database.query(
      `create trigger refuse before insert on messaging.dead_letters for each row execute function messaging.refuse()`,
    );
    await takeUpTo(100_000);
    const messages = ['one', 'x'.repeat(300_000), 'two'].map((text) => inbound(session, text));
    await process.database.transaction((tx) => process.messaging.outbox.put(tx, messages));
    await waitFor(
      () => process.log.lines.filter(({ event }) => event === 'outbox.dead_letter_failed'),
      (failures) => failures.length >= 2,
      { label: 'two tries' },
    );
    await waitFor(
      () => outboxOf(session),
      (rows) => rows.length === 1,
      { label: 'the others sent' },
    );
    expect((await recordsOf(session)).map(textOf)).toEqual(['one', 'two']);
    await stack.database.query('drop trigger refuse on messaging.dead_letters');
    const found = await waitFor(
      () => list('acme', 'conversation.inbound'),
      (letters) => letters.length === 1,
      { label: 'the dead letter' },
    );
    expect(found[0]?.eventId).toBe(messages[1]?.eventId);
    expect(await outboxOf(session)).toEqual([]);
    await takeUpTo(1_048_576);
  });
});
