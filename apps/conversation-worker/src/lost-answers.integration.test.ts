import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Conversation } from '../test/conversation.ts';

let conversation: Conversation;
beforeAll(async () => {
  conversation = await Conversation.start();
});
afterAll(() => conversation?.[Symbol.asyncDispose]());

it('a turn whose end was stored and not answered is told to the end before the next one of its session begins', async () => {
  const proxy = await startFaultProxy({ url: conversation.database.url });
  await using worker = await conversation.worker({ DATABASE_URL: proxy.url, TURN_LEASE_MS: '5000' });
  await conversation.faults({ match: 'slowly', times: 1, tokensPerSecond: 25 });
  const words = Array.from({ length: 30 }, (_, n) => `w${n}`).join(' ');
  const one = await conversation.post(`say slowly ${words}`);
  await conversation.event(one.turnId, 'assistant.delta', 10_000, 2);
  const two = await conversation.post('say second turn', { sessionId: one.sessionId });
  const textOf = (turnId: string) =>
    conversation
      .eventsOf(turnId)
      .map(({ value }) => String(value.text ?? ''))
      .join('');
  await waitFor(
    () => textOf(one.turnId),
    (text) => text.includes('w26'),
    { timeoutMs: 10_000, intervalMs: 5, label: 'almost at its end' },
  );
  proxy.blackhole('to-client');
  await waitFor(
    () =>
      conversation.database.query(
        'select 1 from conversation_worker.turns where id = $1 and finished_at is not null',
        [one.turnId],
      ),
    (rows) => rows.length === 1,
    { timeoutMs: 4_000, intervalMs: 2, label: 'ended in the database' },
  );
  proxy.cut();
  await proxy.heal();
  await conversation.final(two.turnId, 30_000);
  await conversation.final(one.turnId, 30_000);
  const told = conversation.outbound
    .filter(({ key, type }) => key.endsWith(one.sessionId) && type !== 'turn.queued')
    .map(({ type, value }) => `${value.turn_id === one.turnId ? 'one' : 'two'} ${type}`);
  expect(told.filter((each, at) => each !== told[at - 1])).toEqual([
    'one turn.started',
    'one assistant.delta',
    'one assistant.final',
    'two turn.started',
    'two assistant.delta',
    'two assistant.final',
  ]);
  await worker.stop();
  await proxy.close();
});
