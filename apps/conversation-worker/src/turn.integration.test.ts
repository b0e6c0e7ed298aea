import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Conversation, tenant } from '../test/conversation.ts';
import { readAsClient } from '../test/read-as-client.ts';

let conversation: Conversation;
let worker: SpawnedService;

beforeAll(async () => {
  conversation = await Conversation.start();
  worker = await conversation.worker();
});
afterAll(async () => {
  await worker?.[Symbol.asyncDispose]();
  await conversation?.[Symbol.asyncDispose]();
});

describe('a plain turn', () => {
  test('is started, streamed and finished; the final is its deltas', async () => {
    const { turnId, eventId, sessionId } = await conversation.post('long 30');
    const final = await conversation.final(turnId);
    const events = conversation.eventsOf(turnId);
    const read = readAsClient(events);
    expect(read.types).toEqual(['turn.started', 'assistant.delta', 'assistant.final']);
    expect(final.value).toMatchObject({
      text: read.text,
      length: [...read.text].length,
      end_reason: 'stop',
      attempt: 1,
      model: 'test-model',
    });
    expect(read.text).toContain('word30');
    expect(events[0]?.value).toMatchObject({ persona_id: 'assistant', message_event_id: eventId });
    expect(events.every(({ key }) => key === `${tenant}:${sessionId}`)).toBe(true);
    // Deltas carry three headers, the others all (delivery rule 4).
    const delta = events.find(({ type }) => type === 'assistant.delta');
    expect(Object.keys(delta?.headers ?? {}).sort()).toEqual(['event_type', 'schema', 'traceparent']);
    expect(final.headers).toMatchObject({ 'x-request-id': `request-of-${turnId}`, tenant_id: tenant });
    const steps = await conversation.database.query(
      'select kind, outcome is not null as done, length(operation_key) as key from conversation_worker.steps where turn_id = $1',
      [turnId],
    );
    expect(steps).toEqual([{ kind: 'model', done: true, key: 64 }]);
  });

  test('keeps surrogate pairs whole and counts code points', async () => {
    await conversation.faults({ match: 'clef', tokensPerSecond: 400 });
    const text = '𝄞 clef 𝄞𝄞 and 👩‍👩‍👧 family '.repeat(6).trim();
    const { turnId } = await conversation.post(`say ${text}`);
    const final = await conversation.final(turnId);
    const read = readAsClient(conversation.eventsOf(turnId));
    expect(read.text).toBe(final.value.text);
    expect(read.text).toContain('👩‍👩‍👧');
    expect(final.value.length).toBe([...read.text].length);
    for (const { type, value } of conversation.eventsOf(turnId)) {
      if (type === 'assistant.delta') expect(String(value.text).isWellFormed()).toBe(true);
    }
    await conversation.faults();
  });

  test('streams thinking under its own count', async () => {
    const { turnId } = await conversation.post('think about lanes');
    await conversation.final(turnId);
    const read = readAsClient(conversation.eventsOf(turnId));
    expect(read.thinking).not.toBe('');
    expect(read.types).toContain('assistant.thinking');
  });

  test('a redelivered message has no second effect', async () => {
    const posted = await conversation.post('say once');
    await conversation.final(posted.turnId);
    await conversation.send(conversation.posted(posted, 'say once'));
    const { turnId } = await conversation.post('say after', { sessionId: posted.sessionId });
    await conversation.final(turnId);
    expect(conversation.eventsOf(posted.turnId).filter(({ type }) => type === 'turn.started')).toHaveLength(
      1,
    );
  });
});

describe('a session', () => {
  test('runs its turns in order, tells who waits, and remembers', async () => {
    await conversation.faults({ match: 'first', tokensPerSecond: 40 });
    const first = await conversation.post('say first of the two goes slowly on and on');
    await conversation.event(first.turnId, 'assistant.delta');
    const second = await conversation.post('what did I say', { sessionId: first.sessionId });
    const final = await conversation.final(second.turnId);
    const order = conversation.outbound
      .filter(({ value }) => [first.turnId, second.turnId].includes(value.turn_id))
      .map(({ type, value }) => `${value.turn_id === first.turnId ? 1 : 2} ${type}`);
    expect(order.indexOf('1 assistant.final')).toBeLessThan(order.indexOf('2 turn.started'));
    const queued = conversation.eventsOf(second.turnId).find(({ type }) => type === 'turn.queued');
    expect(queued?.value).toMatchObject({ position: 1, attempt: 1 });
    expect(final.value.text).toContain('first of the two');
    await conversation.faults();
  });

  test('is shown whole turns up to its token bound', async () => {
    await conversation.persona('forgetful', { history_tokens: 60 });
    const { sessionId, turnId } = await conversation.post('say alpha '.concat('x '.repeat(200)), {
      personaId: 'forgetful',
    });
    await conversation.final(turnId);
    const beta = await conversation.post('say beta', { sessionId, personaId: 'forgetful' });
    await conversation.final(beta.turnId);
    const last = await conversation.post('what did I say', { sessionId, personaId: 'forgetful' });
    const final = await conversation.final(last.turnId);
    expect(final.value.text).toContain('beta');
    expect(final.value.text).not.toContain('alpha');
  });
});

describe('tools', () => {
  test('a turn is parked while a tool runs and goes on with its result', async () => {
    const { turnId, sessionId } = await conversation.post('echo hello there');
    const call = await conversation.request(turnId);
    expect(call.value).toMatchObject({
      tool: 'echo',
      arguments: { text: 'hello there' },
      step: 1,
      attempt: 1,
      session_id: sessionId,
    });
    expect(call.headers).toMatchObject({
      reply_to: 'conversation-worker',
      correlation_id: call.value.call_id,
    });
    expect(call.value.call_id).toMatch(/^[0-9a-f]{32}$/);
    const [row] = await conversation.database.query<{ state: string; owner: string | null }>(
      `select t.state, l.owner from conversation_worker.turns t join conversation_worker.lanes l using (tenant, key) where t.id = $1`,
      [turnId],
    );
    expect(row).toEqual({ state: 'parked', owner: null });
    await conversation.answer(call);
    const final = await conversation.final(turnId);
    const read = readAsClient(conversation.eventsOf(turnId));
    expect(read.text).toBe(final.value.text);
    expect(read.types.slice(0, 3)).toEqual(['turn.started', 'tool.started', 'tool.result']);
    expect(final.value.text).toContain('hello there');
  });

  test('several rounds', async () => {
    const { turnId } = await conversation.post('rounds 3');
    for (const round of [0, 1, 2]) await conversation.answer(await conversation.request(turnId, round));
    const final = await conversation.final(turnId);
    expect(final.value.end_reason).toBe('stop');
    const ids = conversation.requests
      .filter(({ value }) => value.turn_id === turnId)
      .map(({ value }) => value.call_id);
    expect(new Set(ids).size).toBe(3);
    expect(readAsClient(conversation.eventsOf(turnId)).text).toBe(final.value.text);
  });

  test('calls of one round are joined, whatever the order and repeats of their results', async () => {
    const { turnId } = await conversation.post('calls 3');
    const calls = [
      await conversation.request(turnId, 0),
      await conversation.request(turnId, 1),
      await conversation.request(turnId, 2),
    ];
    for (const call of [calls[2], calls[2], calls[0]])
      if (call !== undefined) await conversation.answer(call, {}, call.value.turn_id);
    await conversation.event(turnId, 'tool.result', 5_000, 1);
    expect(conversation.eventsOf(turnId).some(({ type }) => type === 'assistant.final')).toBe(false);
    if (calls[1] !== undefined) await conversation.answer(calls[1]);
    const final = await conversation.final(turnId);
    expect(final.value.end_reason).toBe('stop');
    expect(conversation.eventsOf(turnId).filter(({ type }) => type === 'tool.result')).toHaveLength(3);
  });

  test('a tool nobody has, and arguments that are no object, are told to the model without a request', async () => {
    const { turnId } = await conversation.post('use nonsense with {"a":1}');
    const final = await conversation.final(turnId);
    const result = conversation.eventsOf(turnId).find(({ type }) => type === 'tool.result');
    expect(result?.value).toMatchObject({ outcome: 'unknown_tool', tool: 'nonsense' });
    expect(final.value.end_reason).toBe('stop');
    expect(conversation.requests.some(({ value }) => value.turn_id === turnId)).toBe(false);
  });

  test('a failed outcome goes to the model like any other', async () => {
    const { turnId } = await conversation.post('echo boom');
    await conversation.answer(await conversation.request(turnId), {
      outcome: 'wall_limit',
      output: '',
      message: 'too slow',
    });
    const final = await conversation.final(turnId);
    expect(final.value.text).toContain('wall_limit');
  });

  test('a late outcome is kept and changes nothing', async () => {
    const { turnId } = await conversation.post('echo once more');
    const call = await conversation.request(turnId);
    await conversation.answer(call);
    await conversation.final(turnId);
    await conversation.answer(call, { output: 'another' });
    await waitFor(
      () =>
        conversation.database.query<{ late: string }>(
          `select late_outcome ->> 'output' as late from conversation_worker.steps where turn_id = $1 and late_outcome is not null`,
          [turnId],
        ),
      (rows) => rows.length === 1 && rows[0]?.late === 'another',
      { label: 'late_outcome' },
    );
    expect(conversation.eventsOf(turnId).filter(({ type }) => type === 'tool.result')).toHaveLength(1);
  });
});

describe('limits', () => {
  test.each([
    ['max_rounds', { max_rounds: 1 }, 'rounds 3'],
    ['max_tool_calls', { max_tool_calls: 2 }, 'calls 3'],
    ['max_tokens', { max_output_tokens: 5 }, 'long 50'],
  ])('%s ends the turn by name', async (reason, limits, message) => {
    await conversation.persona(`limited-${reason}`, limits);
    const { turnId } = await conversation.post(message, { personaId: `limited-${reason}` });
    const final = await conversation.final(turnId);
    expect(final.value.end_reason).toBe(reason);
    expect(readAsClient(conversation.eventsOf(turnId)).text).toBe(final.value.text);
    expect(conversation.requests.some(({ value }) => value.turn_id === turnId)).toBe(false);
  });

  test('max_turn_time stops the model in the middle; what was said stands', async () => {
    await conversation.persona('hurried', { max_turn_ms: 500 });
    await conversation.faults({ match: 'slowly', tokensPerSecond: 20 });
    const { turnId } = await conversation.post('say slowly '.concat('on '.repeat(60)), {
      personaId: 'hurried',
    });
    const final = await conversation.final(turnId);
    expect(final.value.end_reason).toBe('max_turn_time');
    expect(String(final.value.text).length).toBeGreaterThan(0);
    expect(readAsClient(conversation.eventsOf(turnId)).text).toBe(final.value.text);
    await conversation.faults();
  });

  test('max_turn_time ends the wait for a tool too', async () => {
    const { turnId } = await conversation.post('echo nobody answers', { personaId: 'hurried' });
    const final = await conversation.final(turnId);
    expect(final.value.end_reason).toBe('max_turn_time');
    const result = conversation.eventsOf(turnId).find(({ type }) => type === 'tool.result');
    expect(result?.value.outcome).toBe('unknown');
  });
});

describe('poison', () => {
  test('goes to the dead letters, and its neighbours go on', async () => {
    const { sessionId, turnId } = await conversation.post('say before');
    const good = conversation.posted(
      { sessionId, turnId: turnId.replace(/.$/, '0'), eventId: turnId.replace(/.$/, '1') },
      'x',
    );
    await conversation.send({ ...good, value: { ...good.value, session_id: turnId } });
    const after = await conversation.post('say after', { sessionId });
    await conversation.final(after.turnId);
    const letters = await conversation.database.query<{ reason: string }>(
      `select reason from messaging.dead_letters where topic = 'conversation.inbound'`,
    );
    expect(letters).toHaveLength(1);
  });
});
