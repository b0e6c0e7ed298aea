import { newId } from '@signalbox/contracts/ids';
import type { SpawnedService } from '@signalbox/testkit/service';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Conversation } from '../test/conversation.ts';
import { readAsClient } from '../test/read-as-client.ts';

let conversation: Conversation;

beforeAll(async () => {
  conversation = await Conversation.start();
});
afterEach(async () => {
  await conversation.faults();
});
afterAll(async () => {
  await conversation?.[Symbol.asyncDispose]();
});

/** What every finished turn must satisfy, however many attempts it took. */
async function expectWhole(turnId: string, timeoutMs = 20_000): Promise<string> {
  const final = await conversation.final(turnId, timeoutMs);
  const read = readAsClient(conversation.eventsOf(turnId));
  expect(read.text).toBe(final.value.text);
  expect(read.types.at(-1)).toBe('assistant.final');
  const finals = conversation.eventsOf(turnId).filter(({ type }) => type === 'assistant.final');
  expect(new Set(finals.map(({ headers }) => headers.event_id)).size).toBe(1);
  return String(final.value.text);
}

const slow = { match: 'slowly', times: 1, tokensPerSecond: 25 };
const slowText = `say slowly ${Array.from({ length: 60 }, (_, at) => `w${at}`).join(' ')}`;

describe('a worker that dies', () => {
  test('mid-stream: another takes the turn over and the answer is whole', async () => {
    await conversation.faults(slow);
    await using first = await conversation.worker();
    const { turnId } = await conversation.post(slowText);
    await conversation.event(turnId, 'assistant.delta', 10_000, 2);
    first.kill('SIGKILL');
    await using _second = await conversation.spawn();
    const resumed = await conversation.event(turnId, 'turn.resumed', 15_000);
    expect(resumed.value).toMatchObject({ attempt: 2, keep_chars: 0 });
    expect(await expectWhole(turnId)).toContain('w59');
  });

  test('after a finished round: the round is not repeated, its text comes again as one delta', async () => {
    await conversation.faults({ match: 'slowly', times: 2, tokensPerSecond: 25 }); // both rounds of the first attempt
    await using first = await conversation.worker();
    const { turnId } = await conversation.post(`echo a fish then ${slowText}`);
    await conversation.answer(await conversation.request(turnId));
    await conversation.event(turnId, 'assistant.delta', 10_000, 2);
    first.kill('SIGKILL');
    await using _second = await conversation.spawn();
    await conversation.event(turnId, 'turn.resumed', 15_000);
    await expectWhole(turnId);
    expect(conversation.requests.filter(({ value }) => value.turn_id === turnId)).toHaveLength(1);
    const steps = await conversation.database.query<{ kind: string; done: boolean }>(
      'select kind, outcome is not null as done from conversation_worker.steps where turn_id = $1 order by step',
      [turnId],
    );
    expect(steps.map(({ kind }) => kind)).toEqual(['model', 'tool', 'model']);
  });
});

describe('a worker that stalls past its lease', () => {
  test('finds its turn taken: its later deltas are of an older attempt and nothing else of it counts', async () => {
    await conversation.faults(slow);
    await using first = await conversation.worker();
    const { turnId } = await conversation.post(slowText);
    await conversation.event(turnId, 'assistant.delta', 10_000, 2);
    first.kill('SIGSTOP');
    await using _second = await conversation.spawn();
    await conversation.event(turnId, 'turn.resumed', 15_000);
    first.kill('SIGCONT');
    await first.log('work.lease_lost');
    await expectWhole(turnId);
    const events = conversation.eventsOf(turnId);
    expect(events.filter(({ type }) => type === 'turn.started')).toHaveLength(1);
    expect(
      events.filter(({ value }) => value.attempt === 1 && value.type === 'assistant.final'),
    ).toHaveLength(0);
  });
});

describe('a lease that is lost under a running turn', () => {
  test('ends the run at once: the holder’s next statement is refused', async () => {
    await conversation.faults(slow);
    await using worker = await conversation.worker();
    const { turnId } = await conversation.post(slowText);
    await conversation.event(turnId, 'assistant.delta', 10_000, 1);
    await conversation.database.query(
      `update conversation_worker.lanes set owner = gen_random_uuid(), fence = fence + 1,
         until = clock_timestamp() + interval '1 second' where owner is not null`,
    );
    await worker.log('work.lease_lost');
    // The stranger never renews, so the turn comes back as a new attempt.
    await conversation.event(turnId, 'turn.resumed', 15_000);
    await expectWhole(turnId);
  });
});

describe('a worker that stops', () => {
  test('lets a turn end that ends in time', async () => {
    await conversation.faults(slow);
    await using worker = await conversation.worker();
    const { turnId } = await conversation.post('say slowly but not for long');
    await conversation.event(turnId, 'assistant.delta');
    expect(await worker.stop()).toMatchObject({ code: 0 });
    await expectWhole(turnId, 5_000);
    expect(conversation.eventsOf(turnId).every(({ value }) => value.attempt === 1)).toBe(true);
  });

  test('hands over the others: no lease has to run out', async () => {
    await conversation.faults(slow);
    await using worker = await conversation.worker({ TURN_STOP_MS: '300', TURN_LEASE_MS: '60000' });
    const { turnId } = await conversation.post(slowText);
    await conversation.event(turnId, 'assistant.delta', 10_000, 2);
    expect(await worker.stop()).toMatchObject({ code: 0 });
    await using _second = await conversation.spawn({ TURN_LEASE_MS: '60000' });
    const resumed = await conversation.event(turnId, 'turn.resumed', 10_000);
    expect(resumed.value.attempt).toBe(2);
    await expectWhole(turnId);
  });
});

describe('a model that fails', () => {
  let worker: SpawnedService;
  beforeAll(async () => {
    worker = await conversation.worker({
      ...{ MODEL_TRIES: '2', MODEL_MAX_DELAY_MS: '50', TURN_MAX_ATTEMPTS: '3', TURN_RETRY_DELAY_MS: '10' },
    });
  });
  afterAll(async () => {
    await worker?.[Symbol.asyncDispose]();
  });

  test('before its first token: it is tried again, and nobody sees it', async () => {
    await conversation.faults({ match: 'stumble', times: 1, status: 500 });
    const { turnId } = await conversation.post('say stumble');
    await expectWhole(turnId);
    expect(conversation.eventsOf(turnId).every(({ value }) => value.attempt === 1)).toBe(true);
  });

  test.each([
    ['cut', { cutAfterTokens: 3 }],
    ['garbled', { malformedAfterTokens: 2 }],
  ])('%s in the middle: the turn is tried again as a new attempt', async (match, fault) => {
    await conversation.faults({ match, times: 1, ...fault });
    const { turnId } = await conversation.post(`say this is ${match} in the middle of it`);
    await expectWhole(turnId);
    expect(conversation.eventsOf(turnId).some(({ type }) => type === 'turn.resumed')).toBe(true);
  });

  test('the fallback answers where a profile asks to wait too long', async () => {
    await conversation.persona('backed', {}, 'with-fallback');
    await conversation.faults({ match: 'elsewhere', times: 1, status: 429, retryAfterMs: 60_000 });
    const { turnId } = await conversation.post('say elsewhere', { personaId: 'backed' });
    await expectWhole(turnId);
    expect((await conversation.final(turnId)).value.model).toBe('second-model');
  });

  test('refused for good: the client is told, once, and the session goes on', async () => {
    await conversation.faults({ match: 'never', status: 401 });
    const { turnId, sessionId } = await conversation.post('say never');
    const error = await conversation.event(turnId, 'assistant.error');
    expect(error.value).toMatchObject({ error_code: 'MODEL_REFUSED', attempt: 1 });
    const next = await conversation.post('say and now', { sessionId });
    await expectWhole(next.turnId);
  });

  test('again and again: the tries have an end, and the client is told', async () => {
    await conversation.faults({ match: 'always', status: 503 });
    const { turnId } = await conversation.post('say always');
    const error = await conversation.event(turnId, 'assistant.error');
    expect(error.value.attempt).toBe(3);
    // The breaker may have opened on the way.
    expect(['MODEL_UNAVAILABLE', 'BREAKER_OPEN']).toContain(error.value.error_code);
    expect(await worker.metric('turns_total', { outcome: 'error' })).toBeGreaterThanOrEqual(1);
  });

  test('an unknown persona is an error of its turn alone', async () => {
    const { turnId } = await conversation.post('say hello', { personaId: 'nobody' });
    const error = await conversation.event(turnId, 'assistant.error');
    expect(error.value.error_code).toBe('NOT_FOUND');
  });
});

describe('a turn that kills its process', () => {
  test('is given up after its tries', async () => {
    await using worker = await conversation.worker({ TURN_MAX_ATTEMPTS: '2' });
    await conversation.faults(slow);
    const { turnId } = await conversation.post(slowText);
    await conversation.event(turnId, 'assistant.delta');
    worker.kill('SIGKILL');
    await worker.exited;
    // As a takeover that ended the same way would have left it, and nine hand-overs, which are nobody's fault.
    await conversation.database.query(
      'update conversation_worker.turns set attempt = 11, lost = 1 where id = $1',
      [turnId],
    );
    await using _next = await conversation.spawn({ TURN_MAX_ATTEMPTS: '2' });
    const error = await conversation.event(turnId, 'assistant.error');
    expect(error.value).toMatchObject({ error_code: 'RETRY_BUDGET_SPENT', attempt: 12 });
  });
});

describe('two workers', () => {
  test('share sessions; each session has one writer at a time', async () => {
    const group = { KAFKA_GROUP_ID: `two-workers-${newId()}` };
    await using first = await conversation.worker(group);
    await using second = await conversation.worker(group);
    const posts = await Promise.all(
      Array.from({ length: 40 }, async (_, at) => {
        const one = await conversation.post(`say ${at} one`);
        const two = await conversation.post(`echo ${at} two`, { sessionId: one.sessionId });
        return { one, two };
      }),
    );
    for (const { two } of posts) await conversation.answer(await conversation.request(two.turnId));
    for (const { one, two } of posts) {
      await expectWhole(one.turnId);
      await expectWhole(two.turnId);
      const order = conversation.outbound.filter(({ key }) => key.endsWith(one.sessionId));
      const firstEnd = order.findIndex(
        ({ type, value }) => type === 'assistant.final' && value.turn_id === one.turnId,
      );
      const secondStart = order.findIndex(
        ({ type, value }) => type === 'turn.started' && value.turn_id === two.turnId,
      );
      expect(secondStart).toBeGreaterThan(firstEnd);
    }
    const counts = await Promise.all(
      [first, second].map((each) => each.metric('turns_total', { outcome: 'stop' })),
    );
    expect(counts.reduce<number>((sum, count) => sum + (count ?? 0), 0)).toBeGreaterThanOrEqual(80);
    expect(counts.every((count) => (count ?? 0) > 0)).toBe(true);
  });
});
