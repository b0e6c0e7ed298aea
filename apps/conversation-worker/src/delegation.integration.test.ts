import { newId } from '@signalbox/contracts/ids';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Conversation, tenant } from '../test/conversation.ts';
import { Neighbours } from '../test/neighbours.ts';
import { readAsClient } from '../test/read-as-client.ts';
import { taskId } from './delegate-tool.ts';
import { callId } from './operation-key.ts';

// Tasks that a turn gives to others: steps of its journal like tools, whose updates come from delegation-worker.

let conversation: Conversation;
let neighbours: Neighbours;
let worker: SpawnedService;

beforeAll(async () => {
  conversation = await Conversation.start();
  neighbours = new Neighbours(conversation);
  const delegates = [{ persona_id: 'researcher' }, { handler: 'count' }];
  await neighbours.persona('delegating', { delegates });
  worker = await conversation.worker();
});
afterAll(async () => {
  await worker?.[Symbol.asyncDispose]();
  await conversation?.[Symbol.asyncDispose]();
});

const delegating = { personaId: 'delegating' };
const toResearcher = (message: string) =>
  `use delegate with ${JSON.stringify({ persona_id: 'researcher', message })}`;
const shown = (turnId: string) =>
  conversation.eventsOf(turnId).filter(({ type }) => type === 'delegation.updated');
const statuses = (turnId: string) => shown(turnId).map(({ value }) => value.status);
interface StepRow {
  readonly outcome: { readonly outcome: string; readonly output: string } | null;
  readonly late: { readonly outcome: string; readonly output: string } | null;
}
const stepOf = async (turnId: string, step = 1) => {
  const [row] = await conversation.database.query<StepRow>(
    'select outcome, late_outcome as late from conversation_worker.steps where turn_id = $1 and step = $2',
    [turnId, step],
  );
  return row;
};

describe('a task that a turn delegates', () => {
  test('is submitted under its operation key; its updates are shown and its end is the outcome', async () => {
    const { turnId, sessionId } = await conversation.post(toResearcher('find out'), delegating);
    const task = await neighbours.task(turnId);
    const args = { persona_id: 'researcher', message: 'find out' };
    expect(task.value).toMatchObject({
      ...{ task_id: taskId(callId(turnId, 1, 'delegate', args)), target: { persona_id: 'researcher' } },
      ...{
        input: { message: 'find out' },
        depth: 0,
        origin: { session_id: sessionId, turn_id: turnId, step: 1 },
      },
    });
    expect(task.key).toBe(`${tenant}:${task.value.task_id}`);
    expect(task.headers).toMatchObject({
      reply_to: 'conversation-worker',
      correlation_id: task.value.task_id,
    });
    await neighbours.update(task, { seq: 1, status: 'running', progress: 'half way' });
    await conversation.event(turnId, 'delegation.updated');
    expect((await conversation.rowOf(turnId))?.state).toBe('parked');
    await neighbours.complete(task, 'it is found', 2);
    const final = await conversation.final(turnId);
    expect(final.value.text).toContain('it is found');
    const read = readAsClient(conversation.eventsOf(turnId));
    expect(read.text).toBe(final.value.text);
    expect(read.types.slice(0, 4)).toEqual([
      'turn.started',
      'tool.started',
      'delegation.updated',
      'tool.result',
    ]);
    const [first, last] = shown(turnId);
    const { task_id, target } = task.value;
    expect(first?.value).toMatchObject({ step: 1, task_id, target, status: 'running', progress: 'half way' });
    expect(last?.value).toMatchObject({ status: 'completed', result: { text: 'it is found' } });
    // All of it in one trace.
    expect(new Set([task, first, last, final].map((each) => each?.headers.trace_id)).size).toBe(1);
    expect(conversation.requests.some(({ value }) => value.turn_id === turnId)).toBe(false);
  });

  test('has each update shown once, whatever is redelivered and however late', async () => {
    const { turnId } = await conversation.post(toResearcher('again and again'), delegating);
    const task = await neighbours.task(turnId);
    const [one, two] = [newId(), newId()];
    await neighbours.update(task, { seq: 1, status: 'running' }, one);
    await neighbours.update(task, { seq: 3, status: 'running', progress: 'three' }, two);
    await neighbours.update(task, { seq: 1, status: 'running' }, one);
    await neighbours.update(task, { seq: 3, status: 'running', progress: 'three' }, two);
    await neighbours.update(task, { seq: 2, status: 'input_required' });
    const end = newId();
    for (const eventId of [end, end, newId()]) {
      await neighbours.update(
        task,
        { seq: 4, status: 'failed', error: { error_code: 'NO', message: 'no' } },
        eventId,
      );
    }
    const final = await conversation.final(turnId);
    expect(final.value.text).toContain('[error] no');
    // The last word on it, so that all of them have been taken in.
    await neighbours.update(task, { seq: 5, status: 'completed', result: { text: 'after all' } });
    await waitFor(
      () => stepOf(turnId),
      (row) => row?.late !== null,
    );
    expect(await stepOf(turnId)).toMatchObject({
      outcome: { outcome: 'error' },
      late: { output: 'after all' },
    });
    expect(statuses(turnId)).toEqual(['running', 'running', 'failed']);
    expect(readAsClient(conversation.eventsOf(turnId)).terminals).toHaveLength(1);
  });

  test('joins others and tools of its round by the count of what is open', async () => {
    const count = 'use delegate with {"handler":"count","input":{"to":3}}';
    const { turnId } = await conversation.post(`${toResearcher('one')}; ${count}; echo a fish`, delegating);
    const call = await conversation.request(turnId);
    const tasks = [await neighbours.task(turnId), await neighbours.task(turnId, 1)];
    const of = (name: 'persona_id' | 'handler') => tasks.find(({ value }) => name in value.target);
    const [one, two] = [of('persona_id'), of('handler')];
    if (one === undefined || two === undefined) throw new Error('one task for each');
    expect(two.value).toMatchObject({ target: { handler: 'count' }, input: { to: 3 } });
    await neighbours.update(two, { seq: 1, status: 'completed', result: { numbers: [1, 2, 3] } });
    await conversation.answer(call);
    await conversation.event(turnId, 'tool.result', 5_000, 1);
    expect((await conversation.rowOf(turnId))?.state).toBe('parked');
    await neighbours.complete(one, 'the first one');
    const { value } = await conversation.final(turnId);
    for (const part of ['the first one', '{"numbers":[1,2,3]}', 'a fish']) expect(value.text).toContain(part);
  });

  test.each([
    ['to somebody else', '{"persona_id":"boss","message":"x"}', 'nothing may be delegated to it'],
    ['to nobody', '{"message":"x"}', 'one of persona_id and handler'],
    ['without a message', '{"persona_id":"researcher"}', 'a persona needs a message'],
  ])('%s is refused at once', async (_, args, why) => {
    const { turnId } = await conversation.post(`use delegate with ${args}`, delegating);
    const { value } = await conversation.final(turnId);
    expect(value.text).toContain('[invalid_arguments]');
    expect(value.text).toContain(why);
    expect(neighbours.tasksOf(turnId)).toEqual([]);
  });

  test('is offered to a persona with delegates alone', async () => {
    const { turnId } = await conversation.post(toResearcher('not mine'));
    expect((await conversation.final(turnId)).value.text).toContain('[unknown_tool]');
  });
});

describe('a turn that carries out a task', () => {
  const task = (depth: number) => ({ task_id: newId(), depth });

  test('delegates one deeper, under its own task', async () => {
    const own = task(3);
    const { turnId } = await conversation.post(toResearcher('deeper'), { ...delegating, task: own });
    const inner = await neighbours.task(turnId);
    expect(inner.value).toMatchObject({ depth: 4, parent_task_id: own.task_id });
    await neighbours.complete(inner, 'from below');
    const { value, headers } = await neighbours.end(turnId);
    expect(value).toMatchObject({ outcome: 'final', end_reason: 'stop', model: 'test-model' });
    expect(value.text).toContain('from below');
    expect(headers).toMatchObject({ reply_to: 'delegation-worker', correlation_id: own.task_id });
  });

  test('delegates nothing at the limit', async () => {
    const { turnId } = await conversation.post(toResearcher('too deep'), { ...delegating, task: task(4) });
    const { value } = await conversation.final(turnId);
    expect(value.text).toContain('tasks are delegated no more than 4 deep');
    expect(neighbours.tasksOf(turnId)).toEqual([]);
  });
});

describe('the wait for a task', () => {
  test('ends with `unknown`; the task is told to end, and what it says later is late', async () => {
    const { turnId } = await conversation.post(toResearcher('slowly'), delegating);
    const task = await neighbours.task(turnId);
    expect(Date.parse(task.value.deadline_at ?? '') - Date.parse(task.value.submitted_at)).toBe(120_000);
    await conversation.database.query(
      'update conversation_worker.steps set wait_until = clock_timestamp() where turn_id = $1 and step = 1',
      [turnId],
    );
    const final = await conversation.final(turnId);
    expect(final.value.text).toContain('[unknown]');
    await neighbours.taskCancel(task.value.task_id);
    await neighbours.update(task, { seq: 7, status: 'cancelled' });
    await waitFor(
      () => stepOf(turnId),
      (row) => row?.late?.outcome === 'cancelled',
    );
    expect(statuses(turnId)).toEqual([]);
  });

  test('holds nobody: whoever is there goes on with the turn', async () => {
    const { turnId } = await conversation.post(toResearcher('alone'), delegating);
    const task = await neighbours.task(turnId);
    worker.kill('SIGKILL');
    await neighbours.update(task, { seq: 1, status: 'running' });
    await neighbours.complete(task, 'while nobody was there', 2);
    worker = await conversation.worker();
    const final = await conversation.final(turnId, 20_000);
    expect(final.value).toMatchObject({ attempt: 1 });
    expect(final.value.text).toContain('while nobody was there');
    expect(statuses(turnId)).toEqual(['running', 'completed']);
    expect(neighbours.tasksOf(turnId)).toHaveLength(1);
  }, 60_000);

  test('begins with the commit that submits the task: one that dies before has submitted none', async () => {
    await worker[Symbol.asyncDispose]();
    await using first = await conversation.worker({ FAIL_POINT: 'turn.step_done' });
    const { turnId } = await conversation.post(toResearcher('once'), delegating);
    await first.exited;
    expect(neighbours.tasksOf(turnId)).toEqual([]);
    worker = await conversation.worker();
    const task = await neighbours.task(turnId);
    const args = { persona_id: 'researcher', message: 'once' };
    expect(task.value.task_id).toBe(taskId(callId(turnId, 1, 'delegate', args)));
    await neighbours.complete(task, 'done');
    expect((await conversation.final(turnId)).value).toMatchObject({ attempt: 2 });
    expect(neighbours.tasksOf(turnId)).toHaveLength(1);
  }, 60_000);
});

describe('a cancel of a turn that waits for a task', () => {
  test('tells the task to end; what it says later is late', async () => {
    const { turnId, sessionId } = await conversation.post(toResearcher('to be cancelled'), delegating);
    const task = await neighbours.task(turnId);
    await conversation.cancel(sessionId);
    await conversation.event(turnId, 'turn.cancelled');
    const { headers } = await neighbours.taskCancel(task.value.task_id);
    expect(headers).toMatchObject({ reply_to: 'conversation-worker', correlation_id: task.value.task_id });
    await neighbours.complete(task, 'too late');
    await waitFor(
      () => stepOf(turnId),
      (row) => row?.late?.output === 'too late',
    );
    expect((await stepOf(turnId))?.outcome?.outcome).toBe('cancelled');
    expect(shown(turnId)).toEqual([]);
    expect(readAsClient(conversation.eventsOf(turnId)).terminals).toHaveLength(1);
  });

  test('and the end of the task at the same moment leave one end of the turn, whichever is first', async () => {
    const turns = await Promise.all(
      Array.from({ length: 12 }, async (_, n) => {
        const posted = await conversation.post(toResearcher(`race ${n}`), delegating);
        return { ...posted, task: await neighbours.task(posted.turnId) };
      }),
    );
    await Promise.all(
      turns.flatMap(({ sessionId, task }, n) => {
        const both = [() => conversation.cancel(sessionId), () => neighbours.complete(task, `text ${n}`)];
        return (n % 2 === 0 ? both : both.reverse()).map((act) => act());
      }),
    );
    const isEnd = ({ type }: { type: string }) => type === 'assistant.final' || type === 'turn.cancelled';
    for (const { turnId } of turns) {
      await waitFor(
        () => conversation.eventsOf(turnId),
        (events) => events.some(isEnd),
      );
      const read = readAsClient(conversation.eventsOf(turnId));
      expect(read.terminals).toHaveLength(1);
      expect(read.terminals[0]?.value.text).toBe(read.text);
      const state = (await conversation.rowOf(turnId))?.state;
      expect(state).toBe(read.terminals[0]?.type === 'turn.cancelled' ? 'cancelled' : 'done');
    }
  });
});
