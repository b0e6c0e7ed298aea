import { isTerminalEvent } from '@signalbox/contracts/conversation-outbound';
import { newId } from '@signalbox/contracts/ids';
import { spawnService } from '@signalbox/testkit/service';
import { sleep, waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Conversation, type Posted } from '../test/conversation.ts';
import { readAsClient } from '../test/read-as-client.ts';

// Two workers, one of which dies on the way, and people who cannot wait: every message has one visible end.

let conversation: Conversation;
beforeAll(async () => {
  conversation = await Conversation.start();
});
afterAll(() => conversation?.[Symbol.asyncDispose]());

const sessions = 20;
const rounds = 12;
const pick = <T>(...from: readonly [T, ...T[]]): T =>
  from[Math.floor(Math.random() * from.length)] ?? from[0];

/** What one person does: posts with any strategy, cancels one turn or all, waits a little or not. */
async function person(): Promise<Posted[]> {
  const sessionId = newId();
  const posts: Posted[] = [];
  for (let n = 0; n < rounds; n += 1) {
    const message = pick(
      'say slowly one two three four five six seven',
      'echo a fish',
      'echo it then say so',
      'calls 2',
    );
    const strategy = pick(undefined, 'enqueue', 'reject', 'interrupt');
    posts.push(
      await conversation.post(message, { sessionId, ...(strategy === undefined ? {} : { strategy }) }),
    );
    const turnId = pick(...(posts as [Posted, ...Posted[]])).turnId;
    await pick(
      async () => undefined,
      async () => undefined,
      async () => void (await conversation.cancel(sessionId)),
      async () => void (await conversation.cancel(sessionId, { turnId })),
    )();
    await sleep(pick(0, 0, 50, 300, 600));
  }
  return posts;
}

/** Answers tools until told to stop: a few never, some late. */
async function answerTools(until: AbortSignal): Promise<void> {
  for (let next = 0; !until.aborted; await sleep(20)) {
    for (; next < conversation.requests.length; next += 1) {
      const call = conversation.requests[next];
      if (call === undefined || Math.random() < 0.1) continue;
      void sleep(pick(0, 30, 400)).then(() => conversation.answer(call));
    }
  }
}

const endOf: Readonly<Record<string, string>> = {
  done: 'assistant.final',
  failed: 'assistant.error',
  cancelled: 'turn.cancelled',
  rejected: 'turn.rejected',
};

test('every accepted turn has exactly one end, in the order of its session', {
  timeout: 180_000,
}, async ({ annotate }) => {
  const env = { KAFKA_GROUP_ID: newId(), TURN_MAX_ATTEMPTS: '20', TOOL_WAIT_MS: '500' };
  await conversation.faults({ match: 'slowly', tokensPerSecond: 20 });
  await using first = await conversation.worker(env);
  await using _second = await conversation.worker(env);
  await using _relay = await spawnService('outbox-sync', conversation.environment());
  const people = Promise.all(Array.from({ length: sessions }, person));
  const over = new AbortController();
  const tools = answerTools(over.signal);
  await sleep(3_000); // into the middle of it
  first.kill('SIGKILL');
  await using _third = await conversation.worker(env);
  const posts = await people;
  await waitFor(
    () =>
      posts
        .flat()
        .filter(({ turnId }) => !conversation.eventsOf(turnId).some(({ type }) => isTerminalEvent(type))),
    (open) => open.length === 0,
    { timeoutMs: 90_000, label: 'an end for each turn' },
  );
  over.abort();
  await tools;
  const rows = await conversation.database.query<{ id: string; state: string }>(
    'select id, state from conversation_worker.turns',
  );
  const states = new Map(rows.map(({ id, state }) => [id, state]));
  const counts: Record<string, number> = {};
  for (const session of posts) {
    const ran: { started: bigint; ended: bigint }[] = [];
    for (const { turnId } of session) {
      const events = conversation.eventsOf(turnId);
      const { terminals, text } = readAsClient(events);
      expect(terminals.map(({ type }) => type)).toEqual([endOf[states.get(turnId) ?? '']]);
      const [end] = terminals;
      if (end === undefined) continue;
      if (typeof end.value.text === 'string') expect(end.value.text).toBe(text);
      counts[end.type] = (counts[end.type] ?? 0) + 1;
      const started = events.find(({ type }) => type === 'turn.started' || type === 'turn.resumed');
      if (started !== undefined) ran.push({ started: started.offset, ended: end.offset });
    }
    // What ran, ran one after the other, in the order in which it was posted.
    for (const [at, { started }] of ran.entries()) {
      expect(started).toBeGreaterThan(ran[at - 1]?.ended ?? -1n);
    }
  }
  await annotate(`ends: ${JSON.stringify(counts)}`);
  expect(Object.keys(counts).sort()).toEqual(['assistant.final', 'turn.cancelled', 'turn.rejected']);
});
