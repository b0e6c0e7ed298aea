import { newId } from '@signalbox/contracts/ids';
import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import type { SseEvent, SseStream } from '@signalbox/testkit/sse';
import { waitFor } from '@signalbox/testkit/wait';
import { openWebSocket } from '@signalbox/testkit/websocket';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  finalEvent,
  follow,
  type GatewayFixture,
  gatewayFixture,
  post,
  turnEvents,
} from './gateway-fixture.ts';
import { ended, readToEnd, shape, textOf } from './read-streams.ts';

let fixture: GatewayFixture;
let first: SpawnedService;
let second: SpawnedService;
let acme: string;

beforeAll(async () => {
  fixture = await gatewayFixture();
  [first, second] = await Promise.all([fixture.start(), fixture.start()]);
  acme = fixture.keys.acme;
});
afterAll(() => fixture?.close());

async function session() {
  const { body } = await post(first, acme, { message: 'hello' });
  return { sessionId: body.session_id, turnId: body.turn_id };
}

const whole = (sessionId: string, service = first, lastEventId?: string) =>
  readToEnd(service, acme, sessionId, lastEventId);

describe('a session stream', () => {
  it('misses nothing for a client that connects before, between and after, on either replica', async () => {
    const { sessionId, turnId } = await session();
    const early = await follow(first, acme, sessionId);
    const events = turnEvents(turnId, ['Hel', 'lo ', 'wörld ', '😀', '.']);
    await fixture.publish('acme', sessionId, events.slice(0, 3));
    const between = await follow(second, acme, sessionId);
    await fixture.publish('acme', sessionId, events.slice(3));
    const late = await whole(sessionId, second);
    expect(shape(await early.until(ended))).toEqual(shape(late));
    expect(shape(await between.until(ended))).toEqual(shape(late));
    expect(late.map(({ event }) => event)).toEqual([
      'turn.started',
      ...Array(5).fill('assistant.delta'),
      'assistant.final',
    ]);
    expect(textOf(late)).toBe('Hello wörld 😀.');
    await Promise.all([early.close(), between.close()]);
  });

  it('says where it begins, so that a client that is cut before its first event comes back to the same turn', async () => {
    const { sessionId, turnId } = await session();
    const url = `${first.url}/v1/session/${sessionId}/events`;
    const cut = new AbortController();
    const response = await fetch(url, { headers: { 'x-api-key': acme }, signal: cut.signal });
    let text = '';
    const decoder = new TextDecoder();
    for await (const bytes of response.body ?? []) {
      text += decoder.decode(bytes);
      if (/^id: .*\n\n/m.test(text)) break;
    }
    cut.abort();
    const place = /^id: (\d+-\d+)\n\n/m.exec(text)?.[1];
    expect(place).toBeDefined();
    expect(text).not.toContain('data:');

    // Meanwhile its turn ends and another begins, with which a stream without a place would begin.
    await fixture.publish('acme', sessionId, turnEvents(turnId, ['first']));
    await whole(sessionId);
    const { body } = await post(first, acme, { message: 'again', session_id: sessionId });
    await fixture.publish('acme', sessionId, turnEvents(body.turn_id, ['second']));
    const resumed = await follow(second, acme, sessionId, { lastEventId: place ?? '' });
    const events = await resumed.until(
      (seen) => seen.filter(({ event }) => event === 'assistant.final').length === 2,
    );
    expect(events.map(({ event }) => event)).toEqual([
      ...['turn.started', 'assistant.delta', 'assistant.final'],
      ...['turn.started', 'assistant.delta', 'assistant.final'],
    ]);
    await resumed.close();
  });

  it('carries trace id, turn and attempt in every event', async () => {
    const { sessionId, turnId } = await session();
    const traceId = newId().replaceAll('-', '');
    const traceparent = `00-${traceId}-00f067aa0ba902b7-01`;
    await fixture.publish(
      'acme',
      sessionId,
      turnEvents(turnId, ['a', 'b']).map((event) => ({ ...event, traceparent })),
    );
    for (const { data } of await whole(sessionId)) {
      expect(data).toMatchObject({ trace_id: traceId, turn_id: turnId, attempt: 1 });
    }
  });

  it('resumes after every single event on the other replica without gap or repeat', async () => {
    const { sessionId, turnId } = await session();
    await fixture.publish('acme', sessionId, turnEvents(turnId, ['one ', 'two ', 'three ', 'four']));
    const all = await whole(sessionId);
    for (const [index, { id }] of all.slice(0, -1).entries()) {
      const rest = await whole(sessionId, second, id);
      expect(shape(rest)).toEqual(shape(all.slice(index + 1)));
    }
  });

  it('is cut and resumed in the middle of what is being written', async () => {
    const { sessionId, turnId } = await session();
    const pieces = Array.from({ length: 40 }, (_, i) => `${i} `);
    const publishing = fixture.publish('acme', sessionId, turnEvents(turnId, pieces));
    const seen: SseEvent[] = [];
    let stream: SseStream = await follow(first, acme, sessionId);
    for (let round = 0; !ended(seen); round += 1) {
      const events = await stream.until((now) => now.length > 3 || ended(now));
      seen.push(...events);
      await stream.close();
      const lastEventId = seen.at(-1)?.id;
      if (!ended(seen) && lastEventId !== undefined) {
        stream = await follow(round % 2 === 0 ? second : first, acme, sessionId, { lastEventId });
      }
    }
    await publishing;
    expect(new Set(seen.map(({ id }) => id)).size).toBe(seen.length);
    expect(shape(seen)).toEqual(shape(await whole(sessionId)));
    expect(textOf(seen)).toBe(pieces.join(''));
  });

  it('begins with the oldest open turn when no id is given', async () => {
    const { sessionId, turnId } = await session();
    await fixture.publish('acme', sessionId, turnEvents(turnId, ['old']));
    await whole(sessionId);
    const next = (await post(second, acme, { message: 'next', session_id: sessionId })).body.turn_id;
    await fixture.publish('acme', sessionId, turnEvents(next, ['new']));
    const events = await whole(sessionId, second);
    expect(textOf(events)).toBe('new');
    expect(events[0]?.data).toMatchObject({ turn_id: next });
  });

  it('shows a takeover, and nothing of the holder that lost', async () => {
    const { sessionId, turnId } = await session();
    const stream = await follow(second, acme, sessionId);
    const [started, ...deltas] = turnEvents(turnId, ['from ', 'A']);
    if (started === undefined) throw new Error('no event');
    await fixture.publish('acme', sessionId, [started, ...deltas.slice(0, 2)]);
    await fixture.publish('acme', sessionId, [
      { type: 'turn.resumed', value: { turn_id: turnId, attempt: 2, keep_chars: 0 } },
      { type: 'assistant.delta', value: { turn_id: turnId, attempt: 2, at: 0, text: 'from B' } },
      { type: 'assistant.delta', value: { turn_id: turnId, attempt: 1, at: 6, text: ' late A' } },
      finalEvent(turnId, 'from B', 2),
    ]);
    const events = await stream.until(ended);
    const resumed = events.findIndex(({ event }) => event === 'turn.resumed');
    expect(textOf(events.slice(resumed))).toBe('from B');
    expect(JSON.stringify(events)).not.toContain('late A');
    await stream.close();
  });

  it('cuts text that the producer sent twice and leaves out an event that it sent twice', async () => {
    const { sessionId, turnId } = await session();
    const [started, a, b, final] = turnEvents(turnId, ['añ😀', 'b']);
    if (!started || !a || !b || !final) throw new Error('no events');
    const eventId = newId();
    const once = { ...started, eventId };
    await fixture.publish('acme', sessionId, [
      once,
      once,
      a,
      a,
      b,
      { ...a, value: { ...a.value, text: 'añ😀bc' } },
    ]);
    await fixture.publish('acme', sessionId, [finalEvent(turnId, 'añ😀bc')]);
    const events = await whole(sessionId);
    expect(textOf(events)).toBe('añ😀bc');
    expect(events.filter(({ event }) => event === 'turn.started')).toHaveLength(1);
  });

  it('puts a poison record aside and goes on', async () => {
    const { sessionId, turnId } = await session();
    await fixture.publish('acme', sessionId, [{ type: 'turn.started', value: { turn_id: 5 } }]);
    await fixture.publish('acme', sessionId, turnEvents(turnId, ['fine']));
    expect(textOf(await whole(sessionId))).toBe('fine');
  });

  it('shows nobody else a session', async () => {
    const { sessionId } = await session();
    for (const path of [
      `/v1/session/${sessionId}/events`,
      `/v1/sessions/${sessionId}/events`,
      `/v1/sessions/${sessionId}/history`,
    ]) {
      expect((await call(first, path, { key: fixture.keys.globex })).status).toBe(404);
      expect((await call(first, path)).status).toBe(401);
      expect(
        (await call(first, path, { key: acme.replace(/.$/, (last) => (last === 'x' ? 'y' : 'x')) })).status,
      ).toBe(401);
    }
    const socket = openWebSocket(`${first.url}/v1/session/${sessionId}/ws`, {
      headers: { 'x-api-key': fixture.keys.globex },
    });
    await expect(socket).rejects.toMatchObject({ status: 404 });
  });

  it('refuses an id that is none', async () => {
    const { sessionId } = await session();
    for (const lastEventId of ['x', '1-', '99999999-1', '1-1,1-2']) {
      const refused = follow(first, acme, sessionId, { lastEventId });
      await expect(refused).rejects.toMatchObject({ status: 400 });
    }
  });

  it('says 410 below what was pruned, and only there', async () => {
    const { sessionId, turnId } = await session();
    await fixture.publish('acme', sessionId, turnEvents(turnId, ['text']));
    const [started, delta] = await whole(sessionId);
    await fixture.db.query(
      `update gateway.session_events set stored_at = now() - interval '40 days'
       where session_id = $1 and event_type = 'turn.started'`,
      [sessionId],
    );
    await fixture.db.query(`select gateway.prune(interval '1 day', interval '30 days', 100)`);
    expect(textOf(await whole(sessionId, second, started?.id))).toBe('text');
    expect((await whole(sessionId, first, delta?.id)).map(({ event }) => event)).toEqual(['assistant.final']);
    // Of an epoch before: `1-0` is the first event itself where the session is the first of its partition.
    await expect(follow(first, acme, sessionId, { lastEventId: '0-7' })).rejects.toMatchObject({
      status: 410,
      body: expect.stringContaining('STREAM_POSITION_GONE'),
    });
    const page = await call(first, `/v1/sessions/${sessionId}/events?after=0-0`, { key: acme });
    expect(page.status).toBe(410);
  });

  it('keeps an idle stream alive and tells when to come back', async () => {
    const quick = await fixture.start({ STREAM_KEEPALIVE_MS: '200', STREAM_RETRY_MS: '1234' });
    const { sessionId } = await session();
    const stream = await follow(quick, acme, sessionId);
    await waitFor(
      () => stream.comments,
      (comments) => comments.length > 0,
      { label: 'a keepalive' },
    );
    expect(stream.retryMs()).toBe(1234);
    expect(await quick.metric('gateway_sse_connections')).toBe(1);
    const stopping = quick.stop();
    expect(await stream.ended).toBe('server');
    expect(stream.retryMs()).not.toBe(1234);
    expect(await stopping).toMatchObject({ code: 0 });
  });
});

describe('WebSocket', () => {
  const open = (service: SpawnedService, sessionId: string, query = '') =>
    openWebSocket(`${service.url}/v1/session/${sessionId}/ws${query}`, { headers: { 'x-api-key': acme } });

  it('sends the same events under the same ids, resumes, and closes with 1001 on drain', async () => {
    const stopped = await fixture.start();
    const { sessionId, turnId } = await session();
    const live = await open(stopped, sessionId);
    await fixture.publish('acme', sessionId, turnEvents(turnId, ['to ', 'both']));
    const events = await whole(sessionId);
    const expected = events.map(({ id, event, data }) => ({ id, event, data }));
    const [place, ...shown] = await live.until((messages) => messages.length === expected.length + 1);
    expect(place).toEqual({ id: expect.stringMatching(/^\d+-\d+$/) }); // where it begins, before there is an event
    expect(shown).toEqual(expected);
    const again = await open(second, sessionId, `?last_event_id=${(place as { id: string }).id}`);
    expect(await again.until((messages) => messages.length === expected.length)).toEqual(expected);
    await again.close();
    const resumed = await open(second, sessionId, `?last_event_id=${expected[1]?.id}`);
    expect(await resumed.until((messages) => messages.length === expected.length - 2)).toEqual(
      expected.slice(2),
    );
    await resumed.close();
    const stopping = stopped.stop();
    expect(await live.closed).toMatchObject({ code: 1001 });
    expect(await stopping).toMatchObject({ code: 0 });
  });

  it('refuses before the upgrade', async () => {
    const { sessionId } = await session();
    await expect(open(first, newId())).rejects.toMatchObject({ status: 404 });
    await expect(open(first, sessionId, '?last_event_id=x')).rejects.toMatchObject({ status: 400 });
    await expect(openWebSocket(`${first.url}/v1/session/${sessionId}/ws`)).rejects.toMatchObject({
      status: 401,
    });
  });
});

describe('pages', () => {
  it('gives the stored events under the ids of the stream, and the history with its answer', async () => {
    const { sessionId, turnId } = await session();
    await fixture.publish('acme', sessionId, turnEvents(turnId, ['a', 'b', 'c']));
    const events = await whole(sessionId);
    await post(first, acme, { message: 'open', session_id: sessionId });
    const kept = events.filter(({ event }) => event !== 'assistant.delta');
    type Page = { events: { id: string; event: string; data: unknown }[]; next_after: string | null };
    const one = await call<Page>(first, `/v1/sessions/${sessionId}/events?limit=1`, { key: acme });
    const two = await call<Page>(
      first,
      `/v1/sessions/${sessionId}/events?limit=9&after=${one.body.next_after}`,
      { key: acme },
    );
    expect(two.body.next_after).toBeNull();
    expect(
      [...one.body.events, ...two.body.events].map(({ id, event, data }) => ({ id, event, data })),
    ).toEqual(kept.map(({ id, event, data }) => ({ id, event, data })));
    const history = await call<{ turns: { message: string; answer: { data: { text: string } } | null }[] }>(
      second,
      `/v1/sessions/${sessionId}/history`,
      { key: acme },
    );
    expect(history.body.turns.map(({ message, answer }) => [message, answer?.data.text])).toEqual([
      ['hello', 'abc'],
      ['open', undefined],
    ]);
  });

  it('lists the tools of the tenant from its copy of the catalog', async () => {
    const tool = (name: string, description: string, version: number) => ({
      name,
      description,
      parameters: { type: 'object', properties: { text: { type: 'string' } } },
      idempotent: true,
      timeout_ms: 1000,
      enabled: true,
      version,
    });
    await fixture.catalog('acme', 'echo', tool('echo', 'old', 1));
    await fixture.catalog('acme', 'clock', tool('clock', 'gone soon', 1));
    await fixture.catalog('globex', 'secret', tool('secret', 'not yours', 1));
    await fixture.catalog('acme', 'echo', tool('echo', 'new', 2));
    await fixture.catalog('acme', 'clock', null);
    const { body } = await waitFor(
      () => call<{ tools: { name: string; description: string }[] }>(first, '/v1/tools', { key: acme }),
      (answer) => answer.body.tools.length === 1 && answer.body.tools[0]?.description === 'new',
      { label: 'the catalog' },
    );
    expect(body.tools).toEqual([tool('echo', 'new', 2)]);
  });
});
