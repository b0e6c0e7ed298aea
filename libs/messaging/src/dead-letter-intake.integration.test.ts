import { newId } from '@signalbox/contracts/ids';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createEffects, effectsOf, messageOf, sendRaw } from '../test/effects.ts';
import { relayOnce } from '../test/relay.ts';
import { inbound, type Process, Stack } from '../test/stack.ts';
import { type DeadLetterSummary, deadLetters } from './dead-letter-store.ts';
import type { ConsumeOptions } from './messaging.ts';
import { partitionOf } from './murmur2.ts';

let stack: Stack;
beforeAll(async () => {
  stack = await Stack.create('conversation.inbound');
  await createEffects(stack.database);
});
afterAll(() => stack?.drop());

const open = new Set<Process>();
afterEach(async () => {
  await Promise.all([...open].map((process) => process.close()));
  open.clear();
});

const topic = 'conversation.inbound';
let runs = 0;
/** A process with a group of its own that consumes the topic; its effects are rows of `run`. */
function consuming(
  options: Parameters<Stack['process']>[0] = {},
  more: Partial<ConsumeOptions> = {},
  before?: Parameters<typeof effectsOf>[1],
) {
  runs += 1;
  const run = `dead-${runs}`;
  const process = stack.process(options);
  open.add(process);
  const consumer = process.messaging.consume({
    topic,
    group: run,
    inbox: 'own-row',
    handler: effectsOf(run, before),
    ...more,
  });
  return { run, process, consumer };
}

function started(): Process {
  const process = stack.process();
  open.add(process);
  return process;
}

const texts = async (run: string, session: string) =>
  (
    await stack.database.query<{ text: string }>(
      'select text from effects.effects where run = $1 and key = $2 order by n',
      [run, `acme:${session}`],
    )
  ).map(({ text }) => text);

/** The group's dead letters of the session, oldest first. */
async function lettersOf(process: Process, group: string, session: string): Promise<DeadLetterSummary[]> {
  const all = await deadLetters(process.database, process.log).list({
    ...{ tenant: 'acme', topic, state: 'all', limit: 1_000 },
  });
  return all.filter(({ consumer, key }) => consumer === group && key === `acme:${session}`).reverse();
}

async function send(process: Process, session: string, ...list: string[]): Promise<void> {
  for (const text of list) {
    await process.database.transaction((tx) => process.messaging.outbox.put(tx, [inbound(session, text)]));
  }
}

/** Bytes that no consumer can read, in the session's place in the log. */
function sendPoison(session: string): Promise<void> {
  return sendRaw(stack, `acme:${session}`, '{"not json', {
    ...{ event_id: newId(), event_type: 'message.posted', schema: 'conversation.inbound.v1' },
    ...{ tenant_id: 'acme', session_id: session },
  });
}

const partition = (session: string) => partitionOf(`acme:${session}`, 6);

function sessionIn(wanted: (partition: number) => boolean): string {
  for (;;) {
    const session = newId();
    if (wanted(partition(session))) return session;
  }
}

async function committed(group: string, session: string): Promise<bigint> {
  const admin = stack.kafka().admin();
  await admin.connect();
  try {
    const wire = `${stack.topics.prefix}${topic}`;
    const [answer] = await admin.fetchOffsets({ groupId: group, topics: [wire] });
    const found = answer?.partitions.find((each) => each.partition === partition(session));
    return BigInt(found?.offset ?? -1);
  } finally {
    await admin.disconnect();
  }
}

describe('a dead letter that cannot be stored', () => {
  it('keeps its offset while Postgres refuses it; neighbours go on; then it is stored once and the next come in order', async () => {
    const { run, process, consumer } = consuming();
    const poisoned = newId();
    const beside = sessionIn((at) => at !== partition(poisoned));
    const behind = sessionIn((at) => at === partition(poisoned));
    await send(process, poisoned, 'one');
    await waitFor(
      () => texts(run, poisoned),
      (got) => got.length === 1,
      { label: 'what is ahead of the poison' },
    );
    await stack.database.query(
      `create function effects.refuse() returns trigger language plpgsql as
         $$ begin raise exception 'no dead letters now'; end $$`,
    );
    await stack.database.query(
      `create trigger refuse before insert on messaging.dead_letters for each row
         when (new.key = 'acme:${poisoned}') execute function effects.refuse()`,
    );
    await waitFor(
      () => committed(consumer.group, poisoned),
      (offset) => offset > 0n,
      { label: 'the offset of the first' },
    );
    const offset = await committed(consumer.group, poisoned);
    await sendPoison(poisoned);
    await send(process, poisoned, 'two', 'three');
    await send(process, behind, 'waits');
    await waitFor(
      () => process.log.lines.filter(({ event }) => event === 'consumer.paused'),
      (lines) => lines.filter(({ fields }) => fields.partition === partition(poisoned)).length >= 3,
      { label: 'three tries' },
    );
    await send(process, beside, 'a', 'b', 'c');
    await waitFor(
      () => texts(run, beside),
      (got) => got.length === 3,
      { label: 'the neighbours in other partitions' },
    );
    expect(await texts(run, beside)).toEqual(['a', 'b', 'c']);
    expect(await texts(run, poisoned)).toEqual(['one']);
    expect(await texts(run, behind)).toEqual([]);
    expect(await committed(consumer.group, poisoned)).toBe(offset);
    expect(await lettersOf(process, consumer.group, poisoned)).toEqual([]);

    await stack.database.query('drop trigger refuse on messaging.dead_letters');
    await waitFor(
      () => texts(run, poisoned),
      (got) => got.length === 3,
      { label: 'what is behind the poison' },
    );
    expect(await texts(run, poisoned)).toEqual(['one', 'two', 'three']);
    await waitFor(
      () => texts(run, behind),
      (got) => got.length === 1,
      { label: 'another session of the partition' },
    );
    expect(await lettersOf(process, consumer.group, poisoned)).toMatchObject([{ reason: 'not_json' }]);
    await waitFor(
      () => committed(consumer.group, poisoned),
      (at) => at >= offset + 4n,
      { label: 'the offset behind all of them' },
    );
  });

  it('keeps its offset when the database is cut off just then, and is stored once when it is back', async () => {
    await using proxy = await startFaultProxy({ url: stack.database.url });
    let cuts = 0;
    const { run, process, consumer } = consuming({ databaseUrl: proxy.url }, {}, async (records) => {
      if (!records.map(messageOf).includes('poison')) return;
      // The record stands alone, the handler has thrown, and what follows is its dead letter.
      if (records.length === 1 && cuts === 0) {
        cuts += 1;
        await proxy.refuse();
      }
      throw new TypeError('not to be handled');
    });
    const session = newId();
    await send(started(), session, 'one', 'poison', 'two', 'three');
    await waitFor(
      () => process.log.lines,
      (lines) =>
        lines.some(
          ({ event, fields }) => event === 'consumer.paused' && fields.partition === partition(session),
        ),
      { label: 'the pause' },
    );
    expect(cuts).toBe(1);
    expect(await texts(run, session)).toEqual(['one']);
    expect(await lettersOf(started(), consumer.group, session)).toEqual([]);
    await proxy.heal();
    await waitFor(
      () => texts(run, session),
      (got) => got.length === 3,
      { label: 'what is behind the poison' },
    );
    expect(await texts(run, session)).toEqual(['one', 'two', 'three']);
    expect(await lettersOf(process, consumer.group, session)).toMatchObject([{ reason: 'handler' }]);
  });
});

describe('the record of a dead letter', () => {
  it('comes to .dlq later when Kafka is away just then: stored once, told under one id', async () => {
    const [host = '', port = ''] = testInfra().kafka.split(':');
    await using proxy = await startFaultProxy({ host, port: Number(port), kafka: true });
    let cut = false;
    const { run, process, consumer } = consuming(
      { bootstrap: proxy.address, settings: { kafkaRequestTimeoutMs: 500, outboxFastMaxAgeMs: 600 } },
      {},
      async (records) => {
        if (!records.map(messageOf).includes('poison')) return;
        if (!cut) await proxy.refuse();
        cut = true;
        throw new TypeError('not to be handled');
      },
    );
    const [session, other] = [newId(), started()];
    await send(other, session, 'poison', 'next');
    const [letter] = await waitFor(
      () => lettersOf(other, consumer.group, session),
      (found) => found.length === 1,
      { label: 'the dead letter, while the broker is away' },
    );
    const told = async () =>
      (await stack.read('conversation.inbound.dlq')).filter(({ headers }) => headers.event_id === letter?.id);
    expect(await told()).toEqual([]);
    expect(
      await stack.database.query('select topic from messaging.outbox where event_id = $1', [letter?.id]),
    ).toEqual([{ topic: 'conversation.inbound.dlq' }]);
    await proxy.heal();
    await waitFor(
      async () => {
        await relayOnce(other);
        return told();
      },
      (records) => records.length > 0,
      { label: 'the record in .dlq' },
    );
    // Its offset could not be committed, so it comes again, and is known.
    await waitFor(
      () => texts(run, session),
      (got) => got.length === 1,
      { label: 'the next of the session', timeoutMs: 20_000 },
    );
    expect(await lettersOf(process, consumer.group, session)).toHaveLength(1);
  });
});

describe('a replayed record', () => {
  const replay = (process: Process, id: string, value?: object) =>
    process.database.transaction((tx) =>
      deadLetters(process.database, process.log).replay(tx, {
        ...{ tenant: 'acme', topic, id, by: 'key:k1', source: 'test' },
        ...(value === undefined ? {} : { correction: { value } }),
      }),
    );
  const waiting = async (process: Process, group: string, session: string, count: number) => {
    const found = await waitFor(
      () => lettersOf(process, group, session),
      (letters) => letters.length === count,
      { label: `${count} dead letters` },
    );
    return found.at(-1) ?? expect.unreachable();
  };

  it.each(['own-row', 'table'] as const)(
    'is new to an inbox by %s, and knows what it repeats',
    async (inbox) => {
      const replayOf: (string | undefined)[] = [];
      const { run, process, consumer } = consuming({}, { inbox }, (records) => {
        for (const { headers } of records) replayOf.push(headers.replay_of);
      });
      const session = newId();
      await send(process, session, 'one');
      await sendPoison(session);
      await send(process, session, 'two');
      const letter = await waiting(process, consumer.group, session, 1);
      await replay(process, letter.id, inbound(session, 'put right').value ?? {});
      await relayOnce(process);
      await waitFor(
        () => texts(run, session),
        (got) => got.length === 3,
        { label: 'the replay' },
      );
      expect(await texts(run, session)).toEqual(['one', 'two', 'put right']);
      expect(replayOf).toContain(letter.eventId);
    },
  );

  it('that is poison again becomes a dead letter of its own, and so on: a chain by replay_of', async () => {
    const { process, consumer } = consuming();
    const session = newId();
    await sendPoison(session);
    const first = await waiting(process, consumer.group, session, 1);
    const second = await replay(process, first.id);
    await relayOnce(process);
    const again = await waiting(process, consumer.group, session, 2);
    expect(again).toMatchObject({ eventId: second.eventId, replayOf: first.eventId, replayedAt: null });
    const third = await replay(process, again.id);
    await relayOnce(process);
    const last = await waiting(process, consumer.group, session, 3);
    expect(last).toMatchObject({ eventId: third.eventId, replayOf: second.eventId });
    const [done] = await lettersOf(process, consumer.group, session);
    expect(done).toMatchObject({ id: first.id, replayedAs: second.eventId });
  });

  it('of a record that had its effect already is counted as a repeat by an effect that knows its own row', async () => {
    // As a copy on the wire that was damaged: the first copy was handled, the second became a dead letter.
    const seen: string[] = [];
    const { process, consumer } = consuming(
      {},
      {
        handler: async (records, tx, context) => {
          const rows = await tx.query(
            `insert into effects.effects (run, event_id, key, text)
             select 'by-turn', (u.value ->> 'turn_id')::uuid, u.key, u.value ->> 'message'
             from unnest($1::jsonb[], $2::text[]) u(value, key) on conflict do nothing returning 1`,
            [records.map(({ value }) => JSON.stringify(value)), records.map(({ key }) => key)],
          );
          seen.push(...records.map(messageOf));
          context.duplicates(records.length - rows.length);
        },
      },
    );
    const session = newId();
    const message = inbound(session, 'handled');
    await process.database.transaction((tx) => process.messaging.outbox.put(tx, [message]));
    await sendPoison(session);
    const letter = await waiting(process, consumer.group, session, 1);
    await replay(process, letter.id, message.value ?? {});
    await relayOnce(process);
    await send(process, session, 'behind it');
    await waitFor(
      () => texts('by-turn', session),
      (got) => got.includes('behind it'),
      { label: 'what is behind the replay' },
    );
    expect(seen.filter((text) => text === 'handled')).toHaveLength(2);
    expect(await texts('by-turn', session)).toEqual(['handled', 'behind it']);
  });
});
