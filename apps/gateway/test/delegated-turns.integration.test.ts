import { createHash } from 'node:crypto';
import { newId } from '@signalbox/contracts/ids';
import { hashId } from '@signalbox/contracts/memory-ids';
import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { openWebSocket } from '@signalbox/testkit/websocket';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  finalEvent,
  follow,
  type GatewayFixture,
  gatewayFixture,
  type OutboundEvent,
  post,
  turnEvents,
} from './gateway-fixture.ts';
import { ended, readToEnd, rise, shape } from './read-streams.ts';

/** Turns that remember and delegate, and turns that a task asked for: nobody has made their sessions here. */

let fixture: GatewayFixture;
let gateway: SpawnedService;
let acme: string;
let globex: string;

beforeAll(async () => {
  fixture = await gatewayFixture();
  gateway = await fixture.start();
  ({ acme, globex } = fixture.keys);
});
afterAll(() => fixture?.close());

interface EventsPage {
  readonly events: readonly { readonly id: string; readonly event: string; readonly data: object }[];
}
const page = async (sessionId: string, key = acme) =>
  await call<EventsPage>(gateway, `/v1/sessions/${sessionId}/events`, { key });

/** A turn that recalls, delegates, waits for the task and answers. */
function delegatingTurn(turnId: string): OutboundEvent[] {
  const of = (more: Record<string, unknown>) => ({ turn_id: turnId, attempt: 1, ...more });
  const taskId = newId();
  const update = (status: string, more: Record<string, unknown> = {}): OutboundEvent => ({
    type: 'delegation.updated',
    value: of({ step: 2, task_id: taskId, target: { persona_id: 'researcher' }, status, ...more }),
  });
  return [
    { type: 'turn.started', value: of({ persona_id: 'assistant', message_event_id: newId() }) },
    {
      type: 'memory.recalled',
      value: of({
        outcome: 'ok',
        memories: [
          { memory_id: newId(), namespace: 'default', role: 'note', text: 'Ada likes French.', score: 0.9 },
        ],
        duration_ms: 12,
      }),
    },
    { type: 'assistant.delta', value: of({ at: 0, text: 'Asking. ' }) },
    update('queued'),
    update('running', { progress: 'half' }),
    update('completed', { result: { text: '42' } }),
    { type: 'assistant.delta', value: of({ at: 8, text: 'It is 42.' }) },
    finalEvent(turnId, 'Asking. It is 42.'),
  ];
}

describe('memories and tasks of a turn', () => {
  it('are told in order on event stream, WebSocket, page and a resume from anywhere, while the turn is open', async () => {
    const { session_id: sessionId, turn_id: turnId } = (await post(gateway, acme, { message: 'hi' })).body;
    const events = delegatingTurn(turnId);
    await using live = await follow(gateway, acme, sessionId);
    await using socket = await openWebSocket(`${gateway.url}/v1/session/${sessionId}/ws`, {
      headers: { 'x-api-key': acme },
    });
    // One by one, as a turn that is parked between them tells them.
    for (const [index, event] of events.entries()) {
      await fixture.publish('acme', sessionId, [event]);
      await live.until((seen) => seen.length > index);
    }
    const seen = await live.until(ended);
    expect(seen.map(({ event }) => event)).toEqual(events.map(({ type }) => type));
    expect(rise(seen.map(({ id }) => id))).toBe(true);
    expect(seen[1]?.data).toMatchObject({ outcome: 'ok', memories: [{ text: 'Ada likes French.' }] });
    expect(seen[5]?.data).toMatchObject({ status: 'completed', result: { text: '42' } });
    const messages = (await socket.until((all) => all.length > events.length)).slice(1);
    expect(messages).toEqual(seen.map(({ id, event, data }) => ({ id, event, data })));
    const stored = (await page(sessionId)).body.events;
    const kept = seen.filter(({ event }) => event !== 'assistant.delta');
    expect(stored.map(({ id, event, data }) => ({ id, event, data }))).toEqual(
      kept.map(({ id, event, data }) => ({ id, event, data })),
    );
    for (const [index, { id }] of seen.entries()) {
      if (index === seen.length - 1) break;
      expect(shape(await readToEnd(gateway, acme, sessionId, id))).toEqual(shape(seen.slice(index + 1)));
    }
    const { body } = await call(gateway, `/v1/sessions/${sessionId}/history`, { key: acme });
    expect(body).toMatchObject({
      turns: [{ turn_id: turnId, answer: { event: 'assistant.final', data: { text: 'Asking. It is 42.' } } }],
    });
  });
});

describe('the session of a delegated task', () => {
  const sessionOfTask = (taskId: string) =>
    hashId(createHash('sha256').update(`session ${taskId}`).digest('hex'));

  it('can be followed, resumed and paged by the tenant, and by no other', async () => {
    const sessionId = sessionOfTask(newId());
    expect((await page(sessionId)).status).toBe(404);
    const turnId = newId();
    const events = turnEvents(turnId, ['Forty', '-two']);
    await fixture.publish('acme', sessionId, events.slice(0, 2));
    const stored = await waitForPage(sessionId, 1);
    await using live = await follow(gateway, acme, sessionId);
    await fixture.publish('acme', sessionId, events.slice(2));
    const seen = await live.until(ended);
    expect(seen.map(({ event }) => event)).toEqual(events.map(({ type }) => type));
    expect(stored[0]?.id).toBe(seen[0]?.id);
    expect(shape(await readToEnd(gateway, acme, sessionId, seen[1]?.id))).toEqual(shape(seen.slice(2)));
    for (const path of [`/v1/session/${sessionId}/events`, `/v1/sessions/${sessionId}/events`])
      expect((await call(gateway, path, { key: globex })).status).toBe(404);
  });

  it('is neither posted to, nor acted on, nor listed, and leaves no open turn behind', async () => {
    const sessionId = sessionOfTask(newId());
    await fixture.publish('acme', sessionId, [
      {
        type: 'turn.started',
        value: { turn_id: newId(), attempt: 1, persona_id: 'assistant', message_event_id: newId() },
      },
    ]);
    await waitForPage(sessionId, 1);
    const message = { session_id: sessionId, message: 'hello' };
    expect((await post(gateway, acme, message)).status).toBe(404);
    const action = { session_id: sessionId, action: 'cancel' };
    expect((await call(gateway, '/v1/session/action', { key: acme, body: action })).status).toBe(404);
    expect((await call(gateway, `/v1/sessions/${sessionId}/history`, { key: acme })).status).toBe(404);
    const { body } = await call(gateway, '/v1/sessions', { key: acme });
    expect(JSON.stringify(body)).not.toContain(sessionId);
    const open = await fixture.db.query('select from gateway.messages where session_id = $1', [sessionId]);
    expect(open).toHaveLength(0);
  });

  it('keeps its stored events alone, and a stream in Redis that ends by itself', async () => {
    const sessionId = sessionOfTask(newId());
    await fixture.publish(
      'acme',
      sessionId,
      turnEvents(
        newId(),
        Array.from({ length: 50 }, () => 'word '),
      ),
    );
    const stored = await waitForPage(sessionId, 2);
    expect(stored.map(({ event }) => event)).toEqual(['turn.started', 'assistant.final']);
    const entries = `${fixture.redisPrefix}stream:{acme:${sessionId}}:entries`;
    const ttl = await fixture.redis.run((client) => client.ttl(entries));
    expect(ttl).toBeGreaterThan(0);
    expect(ttl).toBeLessThanOrEqual(3_600);
  });

  async function waitForPage(sessionId: string, events: number) {
    const { body } = await waitFor(
      () => page(sessionId),
      (found) => found.status === 200 && found.body.events.length >= events,
      { label: 'events of the session' },
    );
    return body.events;
  }
});
