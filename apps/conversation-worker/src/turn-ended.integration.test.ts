import { newId } from '@signalbox/contracts/ids';
import type { SpawnedService } from '@signalbox/testkit/service';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Conversation, tenant } from '../test/conversation.ts';
import { Neighbours } from '../test/neighbours.ts';

// A turn that a service has asked for tells it how it ended, in the transaction that ends it: each way to an end once.

let conversation: Conversation;
let neighbours: Neighbours;
let worker: SpawnedService;

beforeAll(async () => {
  conversation = await Conversation.start();
  neighbours = new Neighbours(conversation);
  worker = await conversation.worker({ TURN_MAX_ATTEMPTS: '2', TURN_RETRY_DELAY_MS: '10' });
});
afterAll(async () => {
  await worker?.[Symbol.asyncDispose]();
  await conversation?.[Symbol.asyncDispose]();
});

const newTask = () => ({ task_id: newId(), depth: 1 });
/** That it was told, to whom, and of nothing else. */
async function expectEnded(turnId: string, task: { task_id: string }, value: object): Promise<void> {
  const ended = await neighbours.end(turnId);
  expect(ended.value).toMatchObject({ turn_id: turnId, ...value });
  expect(ended.key).toBe(`${tenant}:${ended.value.session_id}`);
  expect(ended.headers).toMatchObject({ reply_to: 'delegation-worker', correlation_id: task.task_id });
  expect(ended.headers.event_type).toBe('turn.ended');
}

describe('who asked for a turn is told', () => {
  test('its answer, once however often the message comes', async () => {
    const task = newTask();
    const posted = await conversation.post('say hello', { task });
    const final = await conversation.final(posted.turnId);
    const { text, end_reason, usage } = final.value;
    await expectEnded(posted.turnId, task, { outcome: 'final', text, end_reason, usage });
    await conversation.send(conversation.posted(posted, 'say hello', { task }));
    const next = newTask();
    const { turnId } = await conversation.post('say again', { task: next, sessionId: posted.sessionId });
    await expectEnded(turnId, next, { outcome: 'final' });
    expect(neighbours.endedOf(posted.turnId)).toHaveLength(1);
  });

  test('that it was given up', async () => {
    const task = newTask();
    const { turnId } = await conversation.post('say nobody', { task, personaId: 'nobody' });
    await conversation.event(turnId, 'assistant.error', 20_000);
    await expectEnded(turnId, task, { outcome: 'error', text: '', error_code: 'NOT_FOUND' });
  });

  test('that it was cancelled, with what stands; parked; before it ran; and that it was refused', async () => {
    const [runs, waits, refused, parked] = [newTask(), newTask(), newTask(), newTask()];
    await conversation.faults({ match: 'slowly', tokensPerSecond: 20 });
    const one = await conversation.post(`say slowly ${'on '.repeat(400)}`, { task: runs });
    await conversation.event(one.turnId, 'assistant.delta', 10_000, 1);
    const { sessionId } = one;
    const two = await conversation.post('say next', { sessionId, task: waits });
    await conversation.event(two.turnId, 'turn.queued');
    const three = await conversation.post('say no', { sessionId, task: refused, strategy: 'reject' });
    await expectEnded(three.turnId, refused, { outcome: 'rejected', text: '', error_code: 'SESSION_BUSY' });
    await conversation.cancel(sessionId);
    const { value } = await conversation.event(one.turnId, 'turn.cancelled');
    expect(String(value.text)).toContain('slowly');
    await expectEnded(one.turnId, runs, { outcome: 'cancelled', text: value.text });
    await expectEnded(two.turnId, waits, { outcome: 'cancelled', text: '' });
    const four = await conversation.post('echo nobody answers', { task: parked });
    await conversation.request(four.turnId);
    await conversation.cancel(four.sessionId);
    await expectEnded(four.turnId, parked, { outcome: 'cancelled', text: '' });
    for (const { turnId } of [one, two, three, four]) expect(neighbours.endedOf(turnId)).toHaveLength(1);
    await conversation.faults();
  });

  test('once, although the turn is taken over and over', async () => {
    const task = newTask();
    await worker[Symbol.asyncDispose]();
    const point = { FAIL_POINT: 'turn.deltas_acknowledged:1:SIGSTOP' };
    await using first = await conversation.worker(point);
    const { turnId } = await conversation.post('say it twice', { task });
    await first.log('fail_point.reached');
    worker = await conversation.worker();
    const { value } = await conversation.final(turnId, 20_000);
    await expectEnded(turnId, task, { outcome: 'final', text: value.text });
    // The first holder wakes right before it would end the turn.
    first.kill('SIGCONT');
    await first.log('work.lease_lost');
    const last = newTask();
    const after = await conversation.post('say last', { task: last });
    await expectEnded(after.turnId, last, { outcome: 'final' });
    expect(neighbours.endedOf(turnId)).toHaveLength(1);
  }, 60_000);
});

test('a turn that no service has asked for tells nobody', async () => {
  const { turnId } = await conversation.post('say alone');
  await conversation.final(turnId);
  const task = newTask();
  const last = await conversation.post('say last', { task });
  await expectEnded(last.turnId, task, { outcome: 'final' });
  expect(neighbours.endedOf(turnId)).toEqual([]);
});
