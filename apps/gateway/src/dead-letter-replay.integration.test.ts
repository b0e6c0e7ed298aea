import { newId } from '@signalbox/contracts/ids';
import { sessionKey } from '@signalbox/contracts/keys';
import { newApiKey } from '@signalbox/identity/api-keys';
import { createKey } from '@signalbox/identity/create-key';
import { type Messaging, openMessaging } from '@signalbox/messaging/messaging';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { call } from '@signalbox/testkit/api-call';
import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { type SpanCollector, startSpanCollector } from '@signalbox/testkit/span-collector';
import type { SseEvent } from '@signalbox/testkit/sse';
import { startStandIn } from '@signalbox/testkit/stand-in';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { follow, type GatewayFixture, gatewayFixture, post } from '../test/gateway-fixture.ts';

// A poison record among the messages of a session, through the real services: gateway, conversation-worker, outbox-sync.

const topic = 'conversation.inbound';
let fixture: GatewayFixture;
let collector: SpanCollector;
let messaging: Messaging;
let gateway: SpawnedService;
let worker: SpawnedService;
let key: string;
const started: AsyncDisposable[] = [];

beforeAll(async () => {
  [fixture, collector] = await Promise.all([gatewayFixture(), startSpanCollector()]);
  await fixture.topics.create(
    'tool.requests',
    'tool.results',
    'turn.results',
    'delegation.tasks',
    'delegation.updates',
  );
  await fixture.db.query(
    `insert into conversation_worker.personas (tenant, persona_id, system_prompt, model_profile, tools, limits)
     values ('acme', 'assistant', 'You are brief.', 'default', '{}', '{}')`,
  );
  await fixture.db.query(
    `insert into conversation_worker.model_profiles (tenant, name, max_output_tokens) values ('acme', 'default', 512)`,
  );
  const { text } = newApiKey('dev');
  key = text;
  await fixture.db.transaction(
    (tx) => createKey(tx, { tenant: 'acme', text, name: 'operations', scopes: ['dlq:read', 'dlq:write'] }),
    { tenant: 'acme' },
  );
  const traced = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url };
  const env = { ...fixture.env, ...traced };
  const standIn = await startStandIn('model');
  started.push(standIn.launched);
  const model = { MODEL_BASE_URL: standIn.url, MODEL_NAME: 'test-model' };
  messaging = openMessaging({
    settings: fixture.settings,
    ...{ instanceId: newId(), service: 'test', database: fixture.db, log: silentLog, metrics: silentMetrics },
  });
  const [one, two, relay] = await Promise.all([
    fixture.start(traced),
    spawnService('conversation-worker', { ...env, ...model }),
    spawnService('outbox-sync', env),
  ]);
  [gateway, worker] = [one, two];
  started.push(two, relay);
  await Promise.all([two.ready(), relay.ready()]);
});
afterAll(async () => {
  for (const service of started) await service[Symbol.asyncDispose]();
  await messaging?.close();
  await Promise.all([fixture?.close(), collector?.close()]);
});

/** A record that no release can read, in the session's place in the log and in a trace of its own. */
async function sendPoison(sessionId: string) {
  const [eventId, traceId] = [newId(), newId().replaceAll('-', '')];
  await messaging.producer.direct({
    topic,
    key: sessionKey('acme', sessionId),
    headers: {
      ...{ tenant_id: 'acme', session_id: sessionId, event_id: eventId, event_type: 'message.posted' },
      ...{ schema: 'conversation.inbound.v1', traceparent: `00-${traceId}-00f067aa0ba902b7-01` },
    },
    value: Buffer.from('{"message":"half of what somebody'),
  });
  return { eventId, traceId };
}

const list = async () => {
  const { body } = await call(gateway, `/v1/dlq/${topic}`, { key });
  return body.dead_letters as { id: string; event_id: string; reason: string; key: string }[];
};
const letterOf = (eventId: string) =>
  waitFor(
    async () => (await list()).find((each) => each.event_id === eventId),
    (found) => found !== undefined,
    { label: 'the dead letter' },
  );
const turnOf = ({ data }: SseEvent) => (data as { turn_id: string }).turn_id;
const finals = (events: readonly SseEvent[]) =>
  events.filter(({ event }) => event === 'assistant.final').map(turnOf);
const corrected = (sessionId: string, turnId: string, message: string) => ({
  value: {
    ...{ session_id: sessionId, turn_id: turnId, event_id: newId(), persona_id: 'assistant', message },
    accepted_at: new Date().toISOString(),
  },
});
/** Read by each service every 15 s. */
const depthIs = (service: SpawnedService, depth: number) =>
  waitFor(
    () => service.metric('dlq_depth', { topic }),
    (value) => value === depth,
    { label: `dlq_depth ${depth}`, timeoutMs: 20_000, intervalMs: 200 },
  );

describe('a poison record in the middle of a session', () => {
  it('is put aside, its neighbours run, and corrected and replayed it runs at the end, its trace linked', async () => {
    const first = (await post(gateway, key, { message: 'say one' })).body;
    const sessionId = first.session_id;
    await using stream = await follow(gateway, key, sessionId);
    await stream.until((events) => finals(events).length === 1);
    const poison = await sendPoison(sessionId);
    const second = (await post(gateway, key, { message: 'say two', session_id: sessionId })).body;
    const third = (await post(gateway, key, { message: 'say three', session_id: sessionId })).body;
    await stream.until((events) => finals(events).length === 3);

    const letter = await letterOf(poison.eventId);
    expect(letter).toMatchObject({ reason: 'not_json', key: `acme:${sessionId}` });
    const whole = await call(gateway, `/v1/dlq/${topic}/${letter?.id}`, { key });
    expect(whole.body).toMatchObject({ value_text: '{"message":"half of what somebody' });
    // A service that has just started reads it at once; each says it of all.
    const fresh = await spawnService('outbox-sync', fixture.env);
    started.push(fresh);
    await depthIs(fresh, 1);

    const turnId = newId();
    const replayed = await call(gateway, `/v1/dlq/${topic}/${letter?.id}/replay`, {
      ...{ key, body: corrected(sessionId, turnId, 'say four') },
      headers: { 'idempotency-key': newId() },
    });
    expect(replayed.status).toBe(202);
    await stream.until((events) => finals(events).length === 4);
    expect(finals(stream.events)).toEqual([first.turn_id, second.turn_id, third.turn_id, turnId]);
    const own = stream.events.filter((event) => turnOf(event) === turnId).map(({ event }) => event);
    expect(own[0]).toBe('turn.started');
    expect(own.at(-1)).toBe('assistant.final');

    const failed = await collector.find(
      (span) => span.traceId === poison.traceId && span.name === `process ${topic}`,
    );
    const span = await collector.find(({ name }) => name === `replay ${topic}`);
    expect(span.links).toMatchObject([{ traceId: poison.traceId, spanId: failed.spanId }]);
    expect(span.traceId).not.toBe(poison.traceId);
    // One trace, from the request over the record to the turn.
    const hops = [
      'gateway POST /v1/dlq/:topic/:id/replay',
      `gateway replay ${topic}`,
      `outbox-sync publish ${topic}`,
      `conversation-worker process ${topic}`,
      'conversation-worker turn',
    ];
    await collector.untilTrace(span.traceId, (spans) => {
      const names = spans.map(({ name, service }) => `${service} ${name}`);
      return hops.every((hop) => names.includes(hop));
    });
    await depthIs(fresh, 0);
  });

  it('replayed unchanged becomes a dead letter again, which names the first', async () => {
    const sessionId = (await post(gateway, key, { message: 'say one' })).body.session_id;
    const poison = await sendPoison(sessionId);
    const letter = await letterOf(poison.eventId);
    const replayed = await call(gateway, `/v1/dlq/${topic}/${letter?.id}/replay`, { key, method: 'POST' });
    const again = await letterOf(String(replayed.body.event_id));
    expect(again).toMatchObject({ replay_of: poison.eventId, reason: 'not_json' });
    const gone = await call(gateway, `/v1/dlq/${topic}/${again?.id}`, { key, method: 'DELETE' });
    expect(gone.status).toBe(204);
  });

  it('replayed as a turn that there is already runs no second time', async () => {
    const before = (await worker.metric('inbox_duplicates_total', { consumer: 'conversation-worker' })) ?? 0;
    const { session_id: sessionId, turn_id: turnId } = (await post(gateway, key, { message: 'say once' }))
      .body;
    await using stream = await follow(gateway, key, sessionId);
    await stream.until((events) => finals(events).length === 1);
    const poison = await sendPoison(sessionId);
    const letter = await letterOf(poison.eventId);
    const replayed = await call(gateway, `/v1/dlq/${topic}/${letter?.id}/replay`, {
      ...{ key, body: corrected(sessionId, turnId, 'say it again') },
    });
    expect(replayed.status).toBe(202);
    await waitFor(
      () => worker.metric('inbox_duplicates_total', { consumer: 'conversation-worker' }),
      (count) => count === before + 1,
      { label: 'the repeat, counted' },
    );
    const next = (await post(gateway, key, { message: 'say next', session_id: sessionId })).body;
    await stream.until((events) => finals(events).length === 2);
    expect(finals(stream.events)).toEqual([turnId, next.turn_id]);
    expect((await list()).filter(({ key: of }) => of === `acme:${sessionId}`)).toEqual([]);
  });
});
