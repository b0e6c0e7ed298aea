import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createEffects, effectsOf, messageOf } from '../test/effects.ts';
import { inbound, type Process, Stack } from '../test/stack.ts';
import type { IntakeHandler } from './intake.ts';
import type { ConsumeOptions } from './messaging.ts';

let stack: Stack;
beforeAll(async () => {
  stack = await Stack.create('conversation.inbound', 'tool.results');
  await createEffects(stack.database);
});
afterAll(() => stack?.drop());

const open = new Set<Process>();
afterEach(async () => {
  await Promise.all([...open].map((process) => process.close()));
  open.clear();
});

let runs = 0;
/** A consumer group of its own for each test, whose effects are rows of `run`. */
function reader(more: Partial<ConsumeOptions> = {}, options: Parameters<Stack['process']>[0] = {}) {
  runs += 1;
  const run = `run-${runs}`;
  return { run, start: () => startReader(run, more, options) };
}

function startReader(run: string, more: Partial<ConsumeOptions>, options: Parameters<Stack['process']>[0]) {
  const process = stack.process(options);
  open.add(process);
  const consumer = process.messaging.consume({
    topic: 'conversation.inbound',
    group: run,
    inbox: 'own-row',
    handler: effectsOf(run),
    ...more,
  });
  return { process, consumer };
}

const effects = async (run: string, session?: string) =>
  (
    await stack.database.query<{ text: string; key: string }>(
      'select text, key from effects.effects where run = $1 order by n',
      [run],
    )
  ).filter(({ key }) => session === undefined || key === `acme:${session}`);
const texts = async (run: string, session: string) => (await effects(run, session)).map(({ text }) => text);
const deadLetters = (group: string) =>
  stack.database.query<{
    reason: string;
    tenant: string;
    attempts: number;
    detail: string;
    value: Buffer | null;
  }>(
    'select reason, tenant, attempts, detail, value from messaging.dead_letters where consumer like $1 order by created_at',
    [`%.${group}.%`],
  );

/** The texts of the records that a handler could not take. The poison of other tests lies in the same topic. */
const handlerFailures = async (group: string) =>
  (await deadLetters(group))
    .filter(({ reason }) => reason === 'handler')
    .map(({ value }): unknown => JSON.parse(value?.toString() ?? '{}').message);

async function send(process: Process, session: string, ...list: string[]) {
  for (const text of list) {
    await process.database.transaction((tx) => process.messaging.outbox.put(tx, [inbound(session, text)]));
  }
}

describe('intake', () => {
  it('handles each message once and in order by key, from the beginning of the topic for a new group', async () => {
    const sender = stack.process();
    open.add(sender);
    const sessions = [newId(), newId(), newId()];
    for (const session of sessions) await send(sender, session, 'a', 'b', 'c'); // before the group exists
    const { run, start } = reader();
    start();
    for (const session of sessions) await send(sender, session, 'd');
    for (const session of sessions) {
      await waitFor(
        () => texts(run, session),
        (got) => got.length === 4,
        { label: 'four effects' },
      );
      expect(await texts(run, session)).toEqual(['a', 'b', 'c', 'd']);
    }
  });

  it('goes on behind its commit after a restart', async () => {
    const sender = stack.process();
    open.add(sender);
    const session = newId();
    const seen: string[] = [];
    const { run, start } = reader();
    const first = start();
    await send(sender, session, 'one', 'two');
    await waitFor(
      () => texts(run, session),
      (got) => got.length === 2,
    );
    await first.process.close();
    open.delete(first.process);
    startReader(run, { handler: effectsOf(run, (records) => void seen.push(...records.map(messageOf))) }, {});
    await send(sender, session, 'three');
    await waitFor(
      () => texts(run, session),
      (got) => got.length === 3,
    );
    expect(seen.filter((text) => text === 'one' || text === 'two')).toEqual([]);
  });

  it('a unique violation in the handler does not poison the records around it', async () => {
    const session = newId();
    const sender = stack.process();
    open.add(sender);
    const inner = effectsOf('run-unique');
    const handler: IntakeHandler = async (records, tx, context) => {
      if (records.some((record) => messageOf(record) === 'twice')) {
        await tx.query(
          `insert into effects.effects (run, event_id) values ('dup', '00000000-0000-0000-0000-000000000001'), ('dup', '00000000-0000-0000-0000-000000000001')`,
        );
      }
      await inner(records, tx, context);
    };
    await send(sender, session, 'a', 'twice', 'b');
    startReader('run-unique', { handler }, {});
    await waitFor(
      () => texts('run-unique', session),
      (got) => got.length === 2,
    );
    expect(await texts('run-unique', session)).toEqual(['a', 'b']);
  });

  it('waits for a store that is away: nothing is lost, nothing buried, order stays, other partitions go on', async () => {
    const sender = stack.process();
    open.add(sender);
    const sessions = Array.from({ length: 12 }, () => newId()); // over several partitions
    const blocked = sessions[0] ?? '';
    let away = true;
    const handler = effectsOf('run-away', (records) => {
      if (away && records.some(({ sessionId }) => sessionId === blocked))
        throw fault('REDIS_UNAVAILABLE', 'away');
    });
    const { process } = startReader('run-away', { handler, maxBatch: 4 }, {});
    for (const session of sessions) await send(sender, session, 'a', 'b');
    await waitFor(
      () => process.log.lines,
      (lines) => lines.some(({ event }) => event === 'consumer.paused'),
    );
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(await texts('run-away', blocked)).toEqual([]);
    away = false;
    for (const session of sessions) {
      await waitFor(
        () => texts('run-away', session),
        (got) => got.length === 2,
        { label: 'both effects' },
      );
      expect(await texts('run-away', session)).toEqual(['a', 'b']);
    }
    expect(await handlerFailures('run-away')).toEqual([]);
  });

  it('waits for a database that is away, through the driver', async () => {
    await using proxy = await startFaultProxy({ url: stack.database.url });
    const sender = stack.process();
    open.add(sender);
    const session = newId();
    const { run, start } = reader({}, { databaseUrl: proxy.url });
    start();
    await send(sender, session, 'a');
    await waitFor(
      () => texts(run, session),
      (got) => got.length === 1,
    );
    await proxy.refuse();
    await send(sender, session, 'b', 'c');
    await new Promise((resolve) => setTimeout(resolve, 700));
    await proxy.heal();
    await waitFor(
      () => texts(run, session),
      (got) => got.length === 3,
    );
    expect(await texts(run, session)).toEqual(['a', 'b', 'c']);
    expect(await handlerFailures(run)).toEqual([]);
  });

  it('hands over what handlers return with the commit, and none of it when the transaction fails', async () => {
    const sender = stack.process();
    open.add(sender);
    const session = newId();
    let failing = true;
    const handler: IntakeHandler = async (records) => {
      const mine = records.filter(({ sessionId }) => sessionId === session);
      if (mine.length > 0 && failing) {
        failing = false;
        throw fault('DATABASE_UNAVAILABLE', 'once');
      }
      return mine.map((record) => ({
        ...inbound(session, 'answer'),
        topic: 'tool.results',
        eventType: 'tool.outcome',
        schema: 'tool.results.v1',
        eventId: record.eventId,
      }));
    };
    startReader('run-answer', { handler }, {});
    await send(sender, session, 'question');
    const answers = await waitFor(
      () => stack.read('tool.results'),
      (got) => got.length > 0,
      { label: 'the answer' },
    );
    expect(answers.filter(({ key }) => key === `acme:${session}`).length).toBe(1);
  });

  it('skips what is for another service, and enters the rest into the inbox once', async () => {
    const sender = stack.process();
    open.add(sender);
    const session = newId();
    const message = inbound(session, 'mine', { replyTo: 'me' });
    const handled: string[] = [];
    const handler: IntakeHandler = async (records) => {
      handled.push(...records.filter(({ sessionId }) => sessionId === session).map(messageOf));
    };
    startReader(
      'run-inbox',
      { handler, inbox: 'table', accepts: ({ headers }) => headers.reply_to === 'me' },
      {},
    );
    await sender.database.transaction((tx) =>
      sender.messaging.outbox.put(tx, [inbound(session, 'other', { replyTo: 'you' }), message, message]),
    );
    await sender.database.transaction((tx) =>
      sender.messaging.outbox.put(tx, [message, inbound(session, 'last', { replyTo: 'me' })]),
    );
    await waitFor(
      () => handled,
      (got) => got.includes('last'),
    );
    expect(handled).toEqual(['mine', 'last']);
    const entered = async () =>
      (await stack.database.query(`select from messaging.inbox where consumer = 'run-inbox'`)).length;
    await waitFor(entered, (count) => count === 2, { label: 'two ids in the inbox' });
  });
});
