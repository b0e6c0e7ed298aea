import { newId } from '@signalbox/contracts/ids';
import { pause } from '@signalbox/lifecycle/pause';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createEffects, effectsOf, messageOf } from '../test/effects.ts';
import { inbound, type Process, Stack } from '../test/stack.ts';

const session = newId();
const first = Array.from({ length: 200 }, (_, n) => `${n}`);
const more = Array.from({ length: 200 }, (_, n) => `more ${n}`);
let stack: Stack;
let sender: Process;
beforeAll(async () => {
  stack = await Stack.create('conversation.inbound');
  await createEffects(stack.database);
  sender = stack.process();
  await send(first);
});
afterAll(() => stack?.drop());

/** Puts them into the topic, so that a consumer that starts then has them in one fetch. */
async function send(texts: readonly string[]): Promise<void> {
  const messages = texts.map((text) => inbound(session, text));
  await sender.database.transaction((tx) => sender.messaging.outbox.put(tx, messages));
  await waitFor(
    () => stack.database.query('select 1 from messaging.outbox limit 1'),
    (rows) => rows.length === 0,
  );
}

it('what is too much for one transaction is taken in smaller ones, in order', async () => {
  const process = stack.process();
  const sizes: number[] = [];
  let secondsARecord = 0.015; // 200 of them are over the bound of a statement, and of the transaction
  const write = effectsOf('slow');
  process.messaging.consume({
    topic: 'conversation.inbound',
    group: 'slow',
    inbox: 'own-row',
    handler: async (records, tx, context) => {
      sizes.push(records.length);
      await tx.query('select pg_sleep($1)', [records.length * secondsARecord]);
      return await write(records, tx, context);
    },
  });
  const effects = async () =>
    (
      await stack.database.query<{ text: string }>(
        "select text from effects.effects where run = 'slow' order by n",
      )
    ).map(({ text }) => text);
  await waitFor(effects, (texts) => texts.length === 200, { timeoutMs: 40_000, label: 'the first 200' });
  expect(await effects()).toEqual(first);
  expect(sizes[0]).toBe(200);
  expect(process.log.lines.some(({ event }) => event === 'consumer.batch_halved')).toBe(true);
  secondsARecord = 0;
  await send(more);
  await waitFor(effects, (texts) => texts.length === 400, { timeoutMs: 40_000, label: 'the others' });
  expect(await effects()).toEqual([...first, ...more]);
  await process.close();
});

it('appends that are too much for one call come in smaller ones, in offset order', async () => {
  const process = stack.process();
  const seen: string[] = [];
  const sizes: number[] = [];
  process.messaging.consumeRaw({
    topic: 'conversation.inbound',
    group: 'slow-append',
    handler: async (records, { signal }) => {
      sizes.push(records.length);
      await pause(records.length * 25, signal);
      signal.throwIfAborted();
      seen.push(...records.map(messageOf));
    },
  });
  await waitFor(
    () => seen.length,
    (count) => count >= 200,
    { timeoutMs: 40_000 },
  );
  expect(seen.slice(0, 200)).toEqual(first);
  expect(sizes[0]).toBeGreaterThanOrEqual(200);
  await process.close();
});
