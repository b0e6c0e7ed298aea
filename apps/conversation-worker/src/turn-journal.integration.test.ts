import { newId } from '@signalbox/contracts/ids';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Conversation } from '../test/conversation.ts';
import { readAsClient } from '../test/read-as-client.ts';
import { callId } from './operation-key.ts';

// The journal: what a step has before its first try and after its last one, and that nothing finished is done again. The
// tries are counted where they arrive: at the model and at the tools.

let conversation: Conversation;

beforeAll(async () => {
  conversation = await Conversation.start();
});
afterEach(() => conversation.faults());
afterAll(() => conversation?.[Symbol.asyncDispose]());

const words = Array.from({ length: 60 }, (_, at) => `w${at}`).join(' ');
const slow = (match: string, times: number) => ({ match, times, tokensPerSecond: 25 });

interface StepRow {
  readonly step: number;
  readonly kind: string;
  readonly operation_key: string;
  readonly outcome: { readonly outcome?: string; readonly text?: string } | null;
  readonly attempt: number;
}
const stepsOf = (turnId: string) =>
  conversation.database.query<StepRow>(
    'select step, kind, operation_key, outcome, attempt from conversation_worker.steps where turn_id = $1 order by step',
    [turnId],
  );
/** How often the model was asked for each round of the turn whose message has `text` in it. */
async function asked(text: string): Promise<number[]> {
  const rounds: number[] = [];
  for (const { conversation: seen } of await conversation.seenByModel(text)) {
    const from = seen.messages.findLastIndex(({ role }) => role === 'user');
    if (!seen.messages[from]?.text.includes(text)) continue; // a later turn, with this one in its history
    const round = seen.messages.slice(from).filter(({ role }) => role === 'tool').length;
    rounds[round] = (rounds[round] ?? 0) + 1;
  }
  return rounds;
}
const requestsOf = (turnId: string) => conversation.requests.filter(({ value }) => value.turn_id === turnId);
async function expectWhole(turnId: string, attempt: number): Promise<void> {
  const final = await conversation.final(turnId, 30_000);
  const read = readAsClient(conversation.eventsOf(turnId));
  expect(final.value).toMatchObject({ text: read.text, attempt });
  expect(read.terminals).toHaveLength(1);
}

describe('a model step', { timeout: 60_000 }, () => {
  test('has its operation key before its first try, and the same one at its second, elsewhere', async () => {
    const text = `say slowly ${newId()} ${words}`;
    await conversation.faults({ match: text, times: 1, hang: true });
    await using first = await conversation.worker();
    const { turnId } = await conversation.post(text);
    await waitFor(
      () => asked(text),
      ([once]) => once === 1,
    );
    const [before] = await stepsOf(turnId);
    expect(before).toMatchObject({ step: 0, kind: 'model', outcome: null, attempt: 1 });
    expect(before?.operation_key).toMatch(/^[0-9a-f]{64}$/);
    first.kill('SIGKILL');
    await using _second = await conversation.spawn();
    await expectWhole(turnId, 2);
    expect(await asked(text)).toEqual([2]);
    const [after, ...more] = await stepsOf(turnId);
    expect(more).toEqual([]);
    expect(after).toMatchObject({ operation_key: before?.operation_key, attempt: 2 });
    expect(after?.outcome?.text).toContain('w59');
  });

  test('that answered and whose outcome was not stored is asked again, and its calls have the same keys', async () => {
    const text = `echo a fish ${newId()}`;
    await using first = await conversation.worker({ FAIL_POINT: 'turn.step_done' });
    const { turnId } = await conversation.post(text);
    await first.exited;
    expect(requestsOf(turnId)).toEqual([]);
    await using _second = await conversation.spawn();
    const call = await conversation.request(turnId);
    await conversation.answer(call);
    await expectWhole(turnId, 2);
    expect(await asked(text)).toEqual([2, 1]);
    expect(requestsOf(turnId)).toHaveLength(1);
    expect(call.value.call_id).toBe(callId(turnId, 1, 'echo', call.value.arguments));
  });
});

describe('a tool step', { timeout: 60_000 }, () => {
  test('has its operation key before its request is out; the tool gets it', async () => {
    await using _worker = await conversation.worker();
    const { turnId } = await conversation.post('echo a key');
    const { value } = await conversation.request(turnId);
    const [, step] = await stepsOf(turnId);
    expect(step).toMatchObject({ step: 1, kind: 'tool', operation_key: value.call_id, outcome: null });
    // Of turn, step, tool and arguments: nothing of it changes with an attempt.
    expect(value.call_id).toBe(callId(turnId, 1, 'echo', { text: 'a key' }));
    expect(value.idempotency_key).toBe(value.call_id);
    await conversation.answer(await conversation.request(turnId));
    await expectWhole(turnId, 1);
    expect((await stepsOf(turnId)).map(({ outcome }) => outcome !== null)).toEqual([true, true, true]);
  });

  test('that is finished is not asked again, nor is the model step before it, wherever the turn goes on', async () => {
    const id = newId();
    await conversation.faults(slow('slowly', 3));
    await using first = await conversation.worker();
    const { turnId } = await conversation.post(`echo ${id} then echo again then say slowly ${words}`);
    await conversation.answer(await conversation.request(turnId, 0));
    await conversation.answer(await conversation.request(turnId, 1));
    await conversation.event(turnId, 'assistant.delta', 20_000, 2);
    first.kill('SIGKILL');
    await using _second = await conversation.spawn();
    await expectWhole(turnId, 2);
    // Each finished round once, at the model and at the tools; the one that was under way twice.
    expect(await asked(id)).toEqual([1, 1, 2]);
    expect(requestsOf(turnId).map(({ value }) => value.step)).toEqual([1, 3]);
    expect((await stepsOf(turnId)).map(({ attempt }) => attempt)).toEqual([1, 1, 1, 1, 2]);
  });

  test('whose worker dies while it runs is not asked again: its answer goes on with the turn elsewhere', async () => {
    const id = newId();
    await using first = await conversation.worker();
    const { turnId } = await conversation.post(`echo ${id}`);
    const call = await conversation.request(turnId);
    first.kill('SIGKILL');
    await conversation.answer(call);
    await using _second = await conversation.spawn();
    // Nobody held the turn, so this is no new attempt.
    await expectWhole(turnId, 1);
    expect(await asked(id)).toEqual([1, 1]);
    expect(requestsOf(turnId)).toHaveLength(1);
  });

  test('without an answer in time is `unknown`, for the client and for the model, and is not asked again', async () => {
    const id = newId();
    await using _worker = await conversation.worker({ TOOL_WAIT_MS: '10' });
    const { turnId } = await conversation.post(`echo ${id}`);
    const call = await conversation.request(turnId);
    await expectWhole(turnId, 1);
    const result = await conversation.event(turnId, 'tool.result');
    expect(result.value).toMatchObject({ outcome: 'unknown', call_id: call.value.call_id });
    const [told] = (await conversation.seenByModel(id)).flatMap(({ conversation: seen }) =>
      seen.messages.filter(({ role }) => role === 'tool'),
    );
    expect(told?.text).toContain('[unknown]');
    expect(requestsOf(turnId)).toHaveLength(1);
    expect((await stepsOf(turnId))[1]?.outcome?.outcome).toBe('unknown');
    await conversation.answer(call, { output: 'after all' });
    const late = () =>
      conversation.database.query<{ late: string }>(
        `select late_outcome ->> 'output' as late from conversation_worker.steps where turn_id = $1 and step = 1`,
        [turnId],
      );
    await waitFor(late, ([row]) => row?.late === 'after all');
    expect((await stepsOf(turnId))[1]?.outcome?.outcome).toBe('unknown');
  });
});

describe('the end of a turn', { timeout: 60_000 }, () => {
  test('a holder that stands still past its lease right before its final: another ends the turn, it does not', async () => {
    const text = `say ${newId()} whole`;
    await using first = await conversation.worker({ FAIL_POINT: 'turn.deltas_acknowledged:1:SIGSTOP' });
    const { turnId, sessionId } = await conversation.post(text);
    await first.log('fail_point.reached');
    await using second = await conversation.spawn();
    await expectWhole(turnId, 2);
    first.kill('SIGCONT');
    await first.log('work.lease_lost');
    const next = await conversation.post('say next', { sessionId });
    await expectWhole(next.turnId, 1);
    await expectWhole(turnId, 2);
    expect(await asked(text)).toEqual([2]);
    const ended = [first, second].map(({ logs }) =>
      logs.some((line) => line.event === 'turn.finished' && line.turn_id === turnId),
    );
    expect(ended).toEqual([false, true]);
    first.kill('SIGKILL');
  });

  test('a holder that dies right before its final: the turn has one, from elsewhere', async () => {
    const text = `say ${newId()} whole`;
    await using first = await conversation.worker({ FAIL_POINT: 'turn.deltas_acknowledged' });
    const { turnId } = await conversation.post(text);
    await first.exited;
    await using _second = await conversation.spawn();
    await expectWhole(turnId, 2);
    expect(await asked(text)).toEqual([2]);
  });
});
