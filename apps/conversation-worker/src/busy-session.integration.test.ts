import { newId } from '@signalbox/contracts/ids';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Conversation, type OutboundEvent, type Posted } from '../test/conversation.ts';
import { readAsClient } from '../test/read-as-client.ts';

let conversation: Conversation;
let worker: SpawnedService;

beforeAll(async () => {
  conversation = await Conversation.start();
  worker = await conversation.worker();
});
afterEach(() => conversation.faults());
afterAll(async () => {
  await worker?.[Symbol.asyncDispose]();
  await conversation?.[Symbol.asyncDispose]();
});

const slowly = `slowly ${Array.from({ length: 50 }, (_, at) => `w${at}`).join(' ')}`;

/** A turn that streams for two seconds unless somebody ends it. */
async function running(sessionId = newId(), text = slowly): Promise<Posted> {
  await conversation.faults({ match: 'slowly', tokensPerSecond: 25 });
  const posted = await conversation.post(`say ${text}`, { sessionId });
  await conversation.event(posted.turnId, 'assistant.delta', 10_000, 1);
  return posted;
}

/** A turn that waits for a tool. */
async function parked(text = 'echo a fish'): Promise<Posted> {
  const posted = await conversation.post(text);
  await conversation.request(posted.turnId);
  return posted;
}

const cancelled = (turnId: string) => conversation.event(turnId, 'turn.cancelled');
const rejected = (turnId: string) => conversation.event(turnId, 'turn.rejected');
const typesOf = (turnId: string) => readAsClient(conversation.eventsOf(turnId)).types;
/** The types of two turns' events in the order of the log, deltas as one. */
function order(...turns: Posted[]): string[] {
  const names = turns.map(({ turnId }) => turnId);
  const line = conversation.outbound
    .filter(({ value }) => names.includes(value.turn_id))
    .map(({ type, value }) => `${names.indexOf(value.turn_id) + 1} ${type}`);
  return line.filter((each, at) => each !== line[at - 1]);
}
/** The text that stands is the text of the deltas. */
function expectStands({ value }: OutboundEvent): void {
  const { text } = readAsClient(conversation.eventsOf(value.turn_id));
  expect(value).toMatchObject({ text, length: [...text].length });
}

describe('reject', () => {
  test('finds a turn that runs: it has no turn of its own, and is told whose it was', async () => {
    const first = await running();
    const before = await conversation.seenByModel('do not wait');
    const second = await conversation.post('say do not wait', {
      sessionId: first.sessionId,
      strategy: 'reject',
    });
    expect((await rejected(second.turnId)).value).toEqual({
      ...{ turn_id: second.turnId, attempt: 1, reason: 'session_busy', busy_turn_id: first.turnId },
    });
    expect(await conversation.rowOf(second.turnId)).toEqual({ state: 'rejected', attempt: 0 });
    await conversation.final(first.turnId);
    expect(await conversation.seenByModel('do not wait')).toEqual(before);
    expect(await worker.metric('turns_total', { outcome: 'rejected' })).toBe(1);
  });

  test('finds one that is parked', async () => {
    const first = await parked();
    const second = await conversation.post('say no', { sessionId: first.sessionId, strategy: 'reject' });
    expect((await rejected(second.turnId)).value.busy_turn_id).toBe(first.turnId);
    await conversation.cancel(first.sessionId);
    await cancelled(first.turnId);
  });

  test('finds a free session: it runs', async () => {
    const first = await conversation.post('say at once', { strategy: 'reject' });
    await conversation.final(first.turnId);
    const second = await conversation.post('say again', { sessionId: first.sessionId, strategy: 'reject' });
    await conversation.final(second.turnId);
    expect(typesOf(second.turnId)).toEqual(['turn.started', 'assistant.delta', 'assistant.final']);
  });

  test('redelivered when the session is free by then, it stays rejected', async () => {
    const first = await running();
    const posted = { sessionId: first.sessionId, turnId: newId(), eventId: newId() };
    const record = conversation.posted(posted, 'say no', { strategy: 'reject' });
    await conversation.send(record);
    await rejected(posted.turnId);
    await conversation.final(first.turnId);
    await conversation.send(record);
    const after = await conversation.post('say after', { sessionId: first.sessionId });
    await conversation.final(after.turnId);
    expect(conversation.eventsOf(posted.turnId)).toHaveLength(1);
  });
});

describe('interrupt', () => {
  test('ends the turn that runs and those that wait; it runs next and is shown what was said', async () => {
    const first = await running();
    const second = await conversation.post('say never', { sessionId: first.sessionId });
    await conversation.event(second.turnId, 'turn.queued');
    const third = await conversation.post('what did I say', {
      ...{ sessionId: first.sessionId, strategy: 'interrupt' },
    });
    const final = await conversation.final(third.turnId);
    const told = await cancelled(first.turnId);
    expect(told.value).toMatchObject({ cause: 'interrupted', by: third.eventId, attempt: 1 });
    expect(String(told.value.text).startsWith('slowly w0')).toBe(true);
    expectStands(told);
    expect((await cancelled(second.turnId)).value).toEqual({
      ...{ turn_id: second.turnId, attempt: 1, cause: 'interrupted', by: third.eventId, text: '', length: 0 },
    });
    expect(
      conversation.eventsOf(third.turnId).find(({ type }) => type === 'turn.queued')?.value,
    ).toMatchObject({
      ...{ position: 1, strategy: 'interrupt' },
    });
    const line = order(first, third);
    expect(line.indexOf('1 turn.cancelled')).toBeLessThan(line.indexOf('2 turn.started'));
    // The user's message, and as much of the answer as there was.
    expect(final.value.text).toContain(`say ${slowly}`);
    const [request] = await conversation.seenByModel('what did I say');
    expect(request?.conversation.messages.map(({ role, text }) => `${role}: ${text}`)).toEqual([
      `user: say ${slowly}`,
      `assistant: ${told.value.text}`,
      'user: what did I say',
    ]);
    expect(conversation.eventsOf(second.turnId).map(({ type }) => type)).toEqual([
      ...['turn.queued', 'turn.cancelled'],
    ]);
  });

  test('ends a turn that is parked; the tool is told that nobody waits, what it answers is kept and not applied', async () => {
    const first = await parked('say I ask ; echo a fish');
    const call = await conversation.request(first.turnId);
    const second = await conversation.post('say next', {
      ...{ sessionId: first.sessionId, strategy: 'interrupt' },
    });
    const told = await cancelled(first.turnId);
    expect(told.value).toMatchObject({ cause: 'interrupted', by: second.eventId, attempt: 1 });
    expectStands(told);
    await conversation.final(second.turnId);
    const [toolCancel] = await waitFor(
      () => conversation.toolCancels.filter(({ value }) => value.turn_id === first.turnId),
      (found) => found.length === 1,
    );
    const { call_id, turn_id, session_id, step, tool } = call.value;
    expect(toolCancel).toMatchObject({ key: call.key, value: { call_id, turn_id, session_id, step, tool } });
    await conversation.answer(call, { output: 'too late' });
    const row = await waitFor(
      async () =>
        (
          await conversation.database.query<{ outcome: object; late: string; waits: boolean }>(
            `select outcome, late_outcome ->> 'output' as late, wait_until is not null as waits
             from conversation_worker.steps where turn_id = $1 and kind = 'tool'`,
            [first.turnId],
          )
        )[0],
      (found) => found?.late === 'too late',
    );
    expect(row).toMatchObject({
      waits: false,
      outcome: { outcome: 'cancelled', error_code: 'TOOL_CANCELLED' },
    });
    expect(typesOf(first.turnId).at(-1)).toBe('turn.cancelled');
    expect(typesOf(first.turnId)).not.toContain('tool.result');
  });

  test('redelivered, it ends nothing that came after it', async () => {
    const first = await running();
    const posted = { sessionId: first.sessionId, turnId: newId(), eventId: newId() };
    const record = conversation.posted(posted, 'say interrupting', { strategy: 'interrupt' });
    await conversation.send(record);
    await conversation.final(posted.turnId);
    const third = await running(first.sessionId);
    await conversation.send(record);
    await conversation.final(third.turnId);
    expect(typesOf(posted.turnId)).toEqual([
      ...['turn.queued', 'turn.started', 'assistant.delta', 'assistant.final'],
    ]);
  });
});

describe('cancel', () => {
  test('ends the turn that runs with the text that stands; the model’s connection is closed', async () => {
    const text = `${slowly} to the end ${newId()}`;
    await conversation.faults({ match: text, tokensPerSecond: 25 });
    const { sessionId, turnId } = await conversation.post(`say ${text}`);
    await conversation.event(turnId, 'assistant.delta', 10_000, 3);
    const by = await conversation.cancel(sessionId, { reason: 'I changed my mind' });
    const told = await cancelled(turnId);
    expect(told.value).toMatchObject({ cause: 'requested', by, reason: 'I changed my mind', attempt: 1 });
    expect(String(told.value.text)).toContain('w1');
    expectStands(told);
    expect(typesOf(turnId)).toEqual(['turn.started', 'assistant.delta', 'turn.cancelled']);
    await waitFor(
      () => conversation.seenByModel(text),
      ([request]) => request?.ended === 'broken',
    );
    expect(await conversation.rowOf(turnId)).toEqual({ state: 'cancelled', attempt: 1 });
    const [step] = await conversation.database.query<{ text: string; end: string }>(
      `select outcome ->> 'text' as text, outcome ->> 'end' as end from conversation_worker.steps where turn_id = $1`,
      [turnId],
    );
    expect(step).toEqual({ text: told.value.text, end: 'cancelled' });
    expect(await worker.metric('turns_total', { outcome: 'cancelled' })).toBeGreaterThan(0);
    const next = await conversation.post('say on', { sessionId });
    await conversation.final(next.turnId);
  });

  test('without a turn ends all of the session that are unfinished, and none that comes after it', async () => {
    const first = await running();
    const { sessionId } = first;
    const second = await conversation.post('say second', { sessionId });
    const by = await conversation.cancel(sessionId);
    const third = await conversation.post('say third', { sessionId });
    await conversation.final(third.turnId);
    for (const { turnId } of [first, second])
      expect((await cancelled(turnId)).value).toMatchObject({ cause: 'requested', by });
  });

  test('of one turn leaves the others; one that waits is ended at once', async () => {
    const first = await running();
    const { sessionId } = first;
    const second = await conversation.post('say second', { sessionId });
    const third = await conversation.post('say third', { sessionId });
    await conversation.event(third.turnId, 'turn.queued');
    await conversation.cancel(sessionId, { turnId: second.turnId });
    await cancelled(second.turnId);
    expect(conversation.eventsOf(first.turnId).some(({ type }) => type === 'assistant.final')).toBe(false);
    await conversation.final(first.turnId);
    await conversation.final(third.turnId);
    expect(typesOf(second.turnId)).toEqual(['turn.queued', 'turn.cancelled']);
  });

  test('of a turn that is parked, after a round with text, keeps what was said and done', async () => {
    const first = await parked('say I ask ; echo a fish');
    await conversation.cancel(first.sessionId);
    const told = await cancelled(first.turnId);
    expectStands(told);
    const [history] = await conversation.database.query<{ messages: { role: string; text: string }[] }>(
      'select messages from conversation_worker.history where turn_id = $1',
      [first.turnId],
    );
    expect(history?.messages.map(({ role }) => role)).toEqual(['user', 'assistant', 'tool']);
    expect(history?.messages.at(-1)?.text).toBe('[cancelled] the turn was cancelled');
    // The model takes the conversation as it is.
    const next = await conversation.post('say on', { sessionId: first.sessionId });
    await conversation.final(next.turnId);
  });

  test('before the first token: nothing was said, and nothing is kept', async () => {
    await conversation.faults({ match: 'hangs', hang: true });
    const { sessionId, turnId } = await conversation.post('say hangs');
    await conversation.event(turnId, 'turn.started');
    await conversation.cancel(sessionId);
    expect((await cancelled(turnId)).value).toMatchObject({ text: '', length: 0 });
    const rows = await conversation.database.query(
      'select from conversation_worker.history where turn_id = $1',
      [turnId],
    );
    expect(rows).toHaveLength(0);
  });

  test('between two tries ends the turn without another one', async () => {
    await conversation.faults({ match: 'stumbling', cutAfterTokens: 3 });
    await using slowToRetry = await conversation.worker({
      TURN_RETRY_DELAY_MS: '60000',
      TURN_MAX_ATTEMPTS: '50',
    });
    const { sessionId, turnId } = await conversation.post('say this is stumbling on its way');
    await waitFor(
      () =>
        conversation.database.query<{ waits: boolean }>(
          `select not_before > clock_timestamp() + interval '1 second' as waits from conversation_worker.turns where id = $1 and state = 'ready'`,
          [turnId],
        ),
      ([row]) => row?.waits === true,
      { timeoutMs: 20_000 },
    );
    await conversation.cancel(sessionId);
    const told = await cancelled(turnId);
    // The try that is never made opens the stream anew: what the last one said does not stand.
    expect(told.value).toMatchObject({ text: '', length: 0 });
    expect(typesOf(turnId).slice(-2)).toEqual(['turn.resumed', 'turn.cancelled']);
    expectStands(told);
    expect(slowToRetry.exit()).toBeUndefined();
  });

  test('of a finished, an unknown or an already cancelled turn has no effect', async () => {
    const { sessionId, turnId } = await conversation.post('say done');
    await conversation.final(turnId);
    for (const of of [turnId, newId(), undefined]) {
      const by = await conversation.cancel(sessionId, of === undefined ? {} : { turnId: of });
      await worker.log('turn.cancel_without_effect', (line) => line.by === by);
    }
    await conversation.cancel(newId());
    const second = await running(sessionId);
    await conversation.cancel(sessionId);
    await conversation.cancel(sessionId);
    await cancelled(second.turnId);
    const next = await conversation.post('say on', { sessionId });
    await conversation.final(next.turnId);
    expect(readAsClient(conversation.eventsOf(second.turnId)).terminals).toHaveLength(1);
    expect(readAsClient(conversation.eventsOf(turnId)).terminals).toHaveLength(1);
  });

  test('redelivered, it ends nothing that came after it', async () => {
    const first = await running();
    const action = conversation.action(first.sessionId);
    await conversation.send(action);
    await cancelled(first.turnId);
    const second = await running(first.sessionId);
    await conversation.send(action);
    await conversation.final(second.turnId);
  });

  test('a session in the value other than the one in the key is poison', async () => {
    const action = conversation.action(newId());
    await conversation.send({ ...action, value: { ...action.value, session_id: newId() } });
    await waitFor(
      () =>
        conversation.database.query('select from messaging.dead_letters where event_id = $1', [
          action.eventId,
        ]),
      (rows) => rows.length === 1,
    );
  });
});

describe('a session whose turn another process holds', { timeout: 60_000 }, () => {
  test('is told at once of turns that wait, are rejected, or are ended before they ran', async () => {
    await worker[Symbol.asyncDispose]();
    await using holder = await conversation.worker({ TURN_LEASE_MS: '60000' });
    // Longer than the other needs to be there.
    const first = await running(newId(), Array.from({ length: 20 }, () => slowly).join(' '));
    holder.kill('SIGSTOP');
    worker = await conversation.worker();
    const { sessionId } = first;
    const second = await conversation.post('say second', { sessionId });
    const queued = await conversation.event(second.turnId, 'turn.queued');
    expect(queued.value).toMatchObject({ position: 1, strategy: 'enqueue' });
    const third = await conversation.post('say third', { sessionId, strategy: 'reject' });
    expect((await rejected(third.turnId)).value.busy_turn_id).toBe(first.turnId);
    await conversation.cancel(sessionId, { turnId: second.turnId });
    await cancelled(second.turnId);
    const fourth = await conversation.post('say fourth', { sessionId, strategy: 'interrupt' });
    await conversation.event(fourth.turnId, 'turn.queued');
    holder.kill('SIGCONT');
    // It hears of its own turn with its next heartbeat.
    expect((await cancelled(first.turnId)).value).toMatchObject({ by: fourth.eventId, attempt: 1 });
    await conversation.final(fourth.turnId);
    expectStands(await cancelled(first.turnId));
  });
});
