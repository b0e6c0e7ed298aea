import { newId } from '@signalbox/contracts/ids';
import { type Answer, call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type GatewayFixture, gatewayFixture, post } from './gateway-fixture.ts';

/** POST /v1/session/action, and what a message may ask of a busy session. */

let fixture: GatewayFixture;
/** The broker is away from this one, so that its rows stay in the outbox and can be looked at. */
let gateway: SpawnedService;
let acme: string;

beforeAll(async () => {
  fixture = await gatewayFixture();
  gateway = await fixture.start({ KAFKA_BOOTSTRAP_SERVERS: '127.0.0.1:9', TENANT_MAX_OPEN_TURNS: '40' });
  acme = fixture.keys.acme;
});
afterAll(() => fixture?.close());

const path = '/v1/session/action';
const act = (
  body: Record<string, unknown>,
  headers: Record<string, string> = {},
  service: SpawnedService = gateway,
  key = acme,
): Promise<Answer<Record<string, string>>> => call(service, path, { key, body, headers });
const session = async (service = gateway) => (await post(service, acme, { message: 'hello' })).body;

interface Row {
  readonly event_id: string;
  readonly topic: string;
  readonly tenant: string;
  readonly headers: Record<string, string>;
  readonly value: Record<string, unknown>;
}
const outboxOf = (sessionId: string) =>
  fixture.db.query<Row>(
    `select event_id, topic, tenant, headers, convert_from(value, 'UTF8')::json as value
     from messaging.outbox where key = $1 order by id`,
    [`acme:${sessionId}`],
  );

describe('a cancel', () => {
  it('is stored behind the messages of its session, with trace, request id and tenant', async () => {
    const { session_id: sessionId, turn_id: turnId } = await session();
    const traceId = newId().replaceAll('-', '');
    const { status, headers, body } = await act(
      { session_id: sessionId, action: 'cancel', turn_id: turnId, reason: 'changed my mind' },
      { 'x-request-id': 'cancel-1', traceparent: `00-${traceId}-00f067aa0ba902b7-01` },
    );
    expect(status).toBe(202);
    expect(body).toEqual({ session_id: sessionId, event_id: expect.any(String), action: 'cancel' });
    expect(headers.get('location')).toBe(`/v1/session/${sessionId}/events`);
    await post(gateway, acme, { message: 'next', session_id: sessionId });
    const rows = await outboxOf(sessionId);
    expect(rows.map(({ headers: { event_type: type } }) => type)).toEqual([
      'message.posted',
      'session.action',
      'message.posted',
    ]);
    const [, row] = rows;
    expect(row).toMatchObject({
      event_id: body.event_id,
      topic: 'conversation.inbound',
      tenant: 'acme',
      headers: {
        tenant_id: 'acme',
        session_id: sessionId,
        event_id: body.event_id,
        schema: 'conversation.inbound.v1',
        trace_id: traceId,
        'x-request-id': 'cancel-1',
      },
    });
    expect(row?.value).toEqual({
      session_id: sessionId,
      event_id: body.event_id,
      action: 'cancel',
      turn_id: turnId,
      reason: 'changed my mind',
      requested_at: expect.stringMatching(/^\d{4}-.*Z$/),
    });
  });

  it('needs no turn, and no reason', async () => {
    const { session_id: sessionId } = await session();
    expect((await act({ session_id: sessionId, action: 'cancel' })).status).toBe(202);
    const [, row] = await outboxOf(sessionId);
    expect(Object.keys(row?.value ?? {}).sort()).toEqual([
      'action',
      'event_id',
      'requested_at',
      'session_id',
    ]);
  });

  it('knows no session of another tenant, and none that nobody made', async () => {
    const { session_id: sessionId } = await session();
    const refused = [
      await act({ session_id: sessionId, action: 'cancel' }, {}, gateway, fixture.keys.globex),
      await act({ session_id: newId(), action: 'cancel' }),
      await act({ session_id: 'nope', action: 'cancel' }),
    ];
    for (const { status, body } of refused) {
      expect(status).toBe(404);
      expect(body).toMatchObject({ error_code: 'NOT_FOUND', message: 'there is no such session' });
    }
    expect(await outboxOf(sessionId)).toHaveLength(1);
  });

  it('has one effect for each Idempotency-Key, which belongs to its route', async () => {
    const { session_id: sessionId } = await session();
    const key = { 'idempotency-key': newId() };
    const cancel = { session_id: sessionId, action: 'cancel' };
    const first = await act(cancel, key);
    const again = await act(cancel, key);
    expect(first.headers.get('idempotency-replayed')).toBeNull();
    expect(again).toMatchObject({ status: 202, body: first.body });
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(again.headers.get('location')).toBe(first.headers.get('location'));
    expect((await act({ ...cancel, reason: 'other' }, key)).body).toMatchObject({
      status: 422,
      error_code: 'IDEMPOTENCY_KEY_REUSED',
    });
    expect(await outboxOf(sessionId)).toHaveLength(2);
    const message = await post(gateway, acme, { message: 'same key', session_id: sessionId }, key);
    expect(message.status).toBe(202);
    expect(message.headers.get('idempotency-replayed')).toBeNull();
  });

  it('is let in where a message is not: the turns it ends are those that are too many', async () => {
    const { session_id: sessionId } = await session();
    await Promise.all(Array.from({ length: 45 }, () => post(gateway, acme, { message: 'x' })));
    await waitFor(
      () => post(gateway, acme, { message: 'x' }),
      ({ status, body }) => status === 429 && body.error_code === 'TENANT_BUSY',
      { label: 'the tenant to be busy', intervalMs: 100 },
    );
    expect((await act({ session_id: sessionId, action: 'cancel' })).status).toBe(202);
    await fixture.db.query(`update gateway.messages set ended_at = now() where tenant = 'acme'`);
  });

  it('is refused by a full outbox and by the rate limit; its repeat is not refused by the first', async () => {
    const [full, limited] = await Promise.all([
      fixture.start({ KAFKA_BOOTSTRAP_SERVERS: '127.0.0.1:9', OUTBOX_MAX_ROWS: '1' }),
      fixture.start({ RATE_LIMIT_MAX: '2', RATE_LIMIT_WINDOW_MS: '60000' }),
    ]);
    const { session_id: sessionId } = await session();
    const cancel = { session_id: sessionId, action: 'cancel' };
    const key = { 'idempotency-key': newId() };
    const before = await act(cancel, key);
    const refused = await waitFor(
      () => act(cancel, {}, full),
      ({ status }) => status === 503,
      { label: 'a full outbox', intervalMs: 100 },
    );
    expect(refused.body).toMatchObject({ error_code: 'OUTBOX_FULL' });
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(await act(cancel, key, full)).toMatchObject({ status: 202, body: before.body });
    expect((await act({ ...cancel, reason: 'other' }, key, full)).status).toBe(422);
    const answers = [
      await act(cancel, {}, limited),
      await act(cancel, {}, limited),
      await act(cancel, {}, limited),
    ];
    const last = answers.at(-1);
    expect(last?.body).toMatchObject({ status: 429, error_code: 'RATE_LIMITED' });
    for (const name of ['retry-after', 'ratelimit-limit', 'ratelimit-reset']) {
      expect(Number(last?.headers.get(name))).toBeGreaterThan(0);
    }
    expect(last?.headers.get('ratelimit-remaining')).toBe('0');
  });
});

describe('bad input', () => {
  const send = (raw: string, headers: Record<string, string> = {}) =>
    call(gateway, path, { key: acme, raw, headers });
  const id = newId();

  it.each([
    ['no JSON', '{action:"cancel"}'],
    ['nothing', ''],
    ['a duplicate key', `{"session_id":"${id}","action":"cancel","action":"pause"}`],
  ])('400: %s', async (_, raw) => {
    expect(await send(raw)).toMatchObject({ status: 400, body: { error_code: 'MALFORMED_REQUEST' } });
  });

  it.each([
    ['no action', `{"session_id":"${id}"}`, '/action'],
    ['no session', '{"action":"cancel"}', '/session_id'],
    ['an action of the wrong type', `{"session_id":"${id}","action":1}`, '/action'],
    ['a session of the wrong type', '{"session_id":1,"action":"cancel"}', '/session_id'],
    ['a turn that is no id', `{"session_id":"${id}","action":"cancel","turn_id":"x"}`, '/turn_id'],
    [
      'a turn in capitals',
      `{"session_id":"${id}","action":"cancel","turn_id":"${id.toUpperCase()}"}`,
      '/turn_id',
    ],
    ['an unknown field', `{"session_id":"${id}","action":"cancel","tenant":"globex"}`, '/tenant'],
    ['an empty reason', `{"session_id":"${id}","action":"cancel","reason":""}`, '/reason'],
    ['a long reason', `{"session_id":"${id}","action":"cancel","reason":"${'x'.repeat(501)}"}`, '/reason'],
    ['NUL', `{"session_id":"${id}","action":"cancel","reason":"\\u0000"}`, '/reason'],
    ['a lone surrogate', `{"session_id":"${id}","action":"cancel","reason":"\\ud83d"}`, '/reason'],
  ])('422: %s', async (_, raw, place) => {
    const { status, body } = await send(raw);
    expect({ status, code: body.error_code }).toEqual({ status: 422, code: 'VALIDATION_ERROR' });
    expect(body.errors).toContainEqual({ path: place, message: expect.any(String) });
  });

  it.each(['pause', 'resume', 'summarize', 'stop', ''])(
    '422: the action %j, naming those there are',
    async (action) => {
      const { status, body } = await act({ session_id: id, action });
      expect(status).toBe(422);
      expect(body).toMatchObject({ errors: [{ path: '/action', message: 'must be one of cancel' }] });
    },
  );

  it('413, 415 and 401', async () => {
    expect((await send(`{"reason":"${'x'.repeat(1_100_000)}"}`)).status).toBe(413);
    expect((await send('{}', { 'content-type': 'text/plain' })).status).toBe(415);
    expect((await call(gateway, path, { body: { session_id: id, action: 'cancel' } })).status).toBe(401);
  });
});

describe('multitask_strategy', () => {
  it.each(['enqueue', 'reject', 'interrupt'])('%s goes with the message', async (strategy) => {
    const { session_id: sessionId } = await session();
    const { status } = await post(gateway, acme, {
      message: 'x',
      session_id: sessionId,
      multitask_strategy: strategy,
    });
    expect(status).toBe(202);
    const [plain, second] = await outboxOf(sessionId);
    expect(plain?.value).not.toHaveProperty('multitask_strategy');
    expect(second?.value).toMatchObject({ message: 'x', multitask_strategy: strategy });
  });

  it.each(['rollback', '', null, 1])('%j is none', async (strategy) => {
    const { status, body } = await post(gateway, acme, { message: 'x', multitask_strategy: strategy });
    expect(status).toBe(422);
    expect(body.errors).toContainEqual({
      path: '/multitask_strategy',
      message: 'must be one of enqueue, reject, interrupt',
    });
  });
});
