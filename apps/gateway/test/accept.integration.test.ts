import { newId } from '@signalbox/contracts/ids';
import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type GatewayFixture, gatewayFixture, post } from './gateway-fixture.ts';

let fixture: GatewayFixture;
let gateway: SpawnedService;
let other: SpawnedService;
let acme: string;
let globex: string;

beforeAll(async () => {
  fixture = await gatewayFixture();
  [gateway, other] = await Promise.all([fixture.start(), fixture.start()]);
  ({ acme, globex } = fixture.keys);
});
afterAll(() => fixture?.close());

const messages = async (sessionId: string) =>
  fixture.db.query<{ body: Record<string, unknown>; turn_id: string }>(
    'select body, turn_id from gateway.messages where session_id = $1',
    [sessionId],
  );

describe('POST /v1/session/message', () => {
  it('answers 202 with ids and Location, and stores message, session and outbox row', async () => {
    const { status, headers, body } = await post(gateway, acme, {
      message: 'hello',
      metadata: { a: [1, null] },
    });
    expect(status).toBe(202);
    expect(headers.get('location')).toBe(`/v1/session/${body.session_id}/events`);
    expect(headers.get('idempotency-replayed')).toBeNull();
    const [row] = await messages(body.session_id);
    expect(row?.body).toMatchObject({
      persona_id: 'assistant',
      session_id: body.session_id,
      turn_id: body.turn_id,
      event_id: body.event_id,
      message: 'hello',
      metadata: { a: [1, null] },
    });
    await waitFor(
      () => fixture.db.query('select from messaging.outbox where event_id = $1', [body.event_id]),
      (rows) => rows.length === 0,
      { label: 'the outbox row to be published and gone' },
    );
  });

  it('keeps the persona of the session unless another is named', async () => {
    const { body } = await post(gateway, acme, { message: 'one', persona_id: 'plain' });
    await post(other, acme, { message: 'two', session_id: body.session_id });
    await post(other, acme, { message: 'three', session_id: body.session_id, persona_id: 'assistant' });
    const personas = (await messages(body.session_id)).map((row) => row.body.persona_id);
    expect(personas.sort()).toEqual(['assistant', 'plain', 'plain']);
  });

  it('knows no session of another tenant, and none that nobody made', async () => {
    const { body } = await post(gateway, acme, { message: 'mine' });
    const foreign = await post(gateway, globex, { message: 'x', session_id: body.session_id });
    const unknown = await post(gateway, acme, { message: 'x', session_id: newId() });
    const noId = await post(gateway, acme, { message: 'x', session_id: 'nope' });
    for (const refused of [foreign, unknown, noId]) {
      expect(refused.status).toBe(404);
      expect(refused.body).toMatchObject({ error_code: 'NOT_FOUND', message: 'there is no such session' });
    }
    expect(await messages(body.session_id)).toHaveLength(1);
  });

  it('refuses an unknown persona, and another tenant does not lend its own', async () => {
    await fixture.db.query(`insert into gateway.personas (tenant, persona_id) values ('globex', 'secret')`);
    expect((await post(gateway, globex, { message: 'x', persona_id: 'secret' })).status).toBe(202);
    const { status, body } = await post(gateway, acme, { message: 'x', persona_id: 'secret' });
    expect(status).toBe(422);
    expect(body).toMatchObject({ error_code: 'VALIDATION_ERROR', errors: [{ path: '/persona_id' }] });
  });

  it('gives requests of one tick each their own outcome, tenants apart', async () => {
    const mine = (await post(gateway, acme, { message: 'made' })).body.session_id;
    const answers = await Promise.all(
      Array.from({ length: 60 }, (_, i) => {
        const key = i % 2 === 0 ? acme : globex;
        return post(
          gateway,
          key,
          i % 3 === 0 ? { message: `m${i}`, session_id: mine } : { message: `m${i}` },
        );
      }),
    );
    for (const [i, { status }] of answers.entries()) {
      expect(status).toBe(i % 3 === 0 && i % 2 === 1 ? 404 : 202);
    }
    const rows = await fixture.db.query<{ wrong: string }>(
      `select count(*) as wrong from gateway.messages m
       where not exists (select from gateway.sessions s where s.tenant = m.tenant and s.session_id = m.session_id)`,
    );
    expect(rows[0]?.wrong).toBe('0');
  });
});

describe('Idempotency-Key', () => {
  it('has one effect for a hundred at once, on two replicas', async () => {
    const key = newId();
    const answers = await Promise.all(
      Array.from({ length: 100 }, (_, i) =>
        post(i % 2 === 0 ? gateway : other, globex, { message: 'once' }, { 'idempotency-key': key }),
      ),
    );
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([202]));
    expect(new Set(answers.map(({ body }) => JSON.stringify(body))).size).toBe(1);
    const replayed = answers.filter(({ headers }) => headers.get('idempotency-replayed') === 'true');
    expect(replayed).toHaveLength(99);
    const [first] = answers;
    expect(await messages(first?.body.session_id ?? '')).toHaveLength(1);
    const rows = await fixture.db.query('select from gateway.idempotency_keys where key = $1', [key]);
    expect(rows).toHaveLength(1);
  });

  it('answers the same later, from another replica, with a Location', async () => {
    const key = newId();
    const first = await post(gateway, acme, { message: 'a' }, { 'idempotency-key': key });
    const again = await post(other, acme, { message: 'a' }, { 'idempotency-key': key });
    expect(again.status).toBe(202);
    expect(again.body).toEqual(first.body);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(again.headers.get('location')).toBe(first.headers.get('location'));
  });

  it('refuses another body under the key, also within one tick', async () => {
    const key = newId();
    const [a, b] = await Promise.all([
      post(gateway, acme, { message: 'a' }, { 'idempotency-key': key }),
      post(gateway, acme, { message: 'b' }, { 'idempotency-key': key }),
    ]);
    expect([a.status, b.status].sort()).toEqual([202, 422]);
    const later = await post(other, acme, { message: 'c' }, { 'idempotency-key': key });
    expect(later.body).toMatchObject({ error_code: 'IDEMPOTENCY_KEY_REUSED', status: 422 });
  });

  it('is one for each tenant', async () => {
    const key = newId();
    const [a, b] = await Promise.all([
      post(gateway, acme, { message: 'same' }, { 'idempotency-key': key }),
      post(gateway, globex, { message: 'same' }, { 'idempotency-key': key }),
    ]);
    expect([a.status, b.status]).toEqual([202, 202]);
    expect(a.body.session_id).not.toBe(b.body.session_id);
  });

  it('keeps nothing of a refusal: the same key may succeed afterwards', async () => {
    const key = newId();
    const refused = await post(
      gateway,
      acme,
      { message: 'x', session_id: newId() },
      { 'idempotency-key': key },
    );
    expect(refused.status).toBe(404);
    const good = await post(gateway, acme, { message: 'x' }, { 'idempotency-key': key });
    expect(good.status).toBe(202);
    expect(good.headers.get('idempotency-replayed')).toBeNull();
  });
});

describe('bounds', () => {
  let bounded: SpawnedService;
  beforeAll(async () => {
    bounded = await fixture.start({ TENANT_MAX_OPEN_TURNS: '5', RATE_LIMIT_MAX: '10000' });
  });

  it('answers 429 to the tenant whose turns are too many, and to nobody else', async () => {
    const tenant = await fixture.db.query<{ open: string }>(
      `select count(*) as open from gateway.messages where tenant = 'acme' and ended_at is null`,
    );
    expect(Number(tenant[0]?.open)).toBeGreaterThan(5);
    const key = newId();
    const before = await post(gateway, acme, { message: 'x' }, { 'idempotency-key': key });
    const busy = await waitFor(
      () => post(bounded, acme, { message: 'x' }),
      ({ status }) => status === 429,
      { label: 'a refusal', intervalMs: 100 },
    );
    expect(busy.body).toMatchObject({ error_code: 'TENANT_BUSY' });
    expect(Number(busy.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(busy.headers.get('ratelimit-limit')).toBe('5');
    expect(busy.headers.get('ratelimit-remaining')).toBe('0');
    expect(busy.headers.get('ratelimit-reset')).toBe(busy.headers.get('retry-after'));
    const repeated = await post(bounded, acme, { message: 'x' }, { 'idempotency-key': key });
    expect(repeated).toMatchObject({ status: 202, body: before.body });
    expect((await post(bounded, acme, { message: 'y' }, { 'idempotency-key': key })).status).toBe(422);
    expect((await post(gateway, acme, { message: 'x' })).status).toBe(202);
    await fixture.db.query(`update gateway.messages set ended_at = now() where tenant = 'acme'`);
    await waitFor(
      () => post(bounded, acme, { message: 'x' }),
      ({ status }) => status === 202,
      { label: 'to be let in again', intervalMs: 100 },
    );
  });

  it('counts accepts by result', async () => {
    expect(
      await gateway.metric('gateway_accept_total', { result: 'accepted', service: 'gateway' }),
    ).toBeGreaterThan(50);
    expect(await gateway.metric('gateway_accept_total', { result: 'not_found' })).toBeGreaterThan(2);
    expect(
      await gateway.metric('gateway_accept_total', { result: 'idempotency_key_reused' }),
    ).toBeGreaterThan(0);
  });

  it('writes a session and a message for a first message, and a message alone after it', async () => {
    const written = async (turnId: string) => {
      const rows = await fixture.db.query<{ relation: string }>(
        `with written as (select xmin from gateway.messages where turn_id = $1)
         select tableoid::regclass::text as relation from gateway.messages where xmin in (select xmin from written)
         union all
         select tableoid::regclass::text from gateway.sessions where xmin in (select xmin from written)
         union all
         select tableoid::regclass::text from gateway.idempotency_keys where xmin in (select xmin from written)`,
        [turnId],
      );
      return rows.map(({ relation }) => relation).sort();
    };
    const first = await post(gateway, globex, { message: 'count me' });
    expect(await written(first.body.turn_id)).toEqual(['gateway.messages', 'gateway.sessions']);
    const second = await post(gateway, globex, { message: 'me too', session_id: first.body.session_id });
    expect(await written(second.body.turn_id)).toEqual(['gateway.messages']);
  });
});

it('tells its sessions page by page, newest first', async () => {
  type Page = {
    sessions: { session_id: string; persona_id: string; last_message_at: string }[];
    next_before: string | null;
  };
  const first = await call<Page>(gateway, '/v1/sessions?limit=2', { key: globex });
  expect(first.status).toBe(200);
  expect(first.body.sessions).toHaveLength(2);
  const second = await call<Page>(gateway, `/v1/sessions?limit=2&before=${first.body.next_before}`, {
    key: globex,
  });
  const ids = [...first.body.sessions, ...second.body.sessions].map((session) => session.session_id);
  expect(ids).toEqual([...ids].sort().reverse());
  const all = await call<Page>(gateway, '/v1/sessions?limit=200', { key: acme });
  expect(all.body.sessions.map((session) => session.session_id)).not.toContain(ids[0]);
  expect(all.body.next_before).toBeNull();
});
