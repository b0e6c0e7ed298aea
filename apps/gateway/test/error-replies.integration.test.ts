import { newId } from '@signalbox/contracts/ids';
import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type GatewayFixture, gatewayFixture, post } from './gateway-fixture.ts';

let fixture: GatewayFixture;
let gateway: SpawnedService;
let acme: string;

beforeAll(async () => {
  fixture = await gatewayFixture();
  gateway = await fixture.start({
    RATE_LIMIT_MAX: '40',
    RATE_LIMIT_WINDOW_MS: '60000',
    CORS_ORIGINS: 'https://app.example.com',
    BODY_LIMIT_BYTES: '2000000',
  });
  acme = fixture.keys.acme;
});
afterAll(() => fixture?.close());

const path = '/v1/session/message';
const message = { message: 'hello' };

describe('problem replies', () => {
  it('have every member of RFC 9457 and of the contract', async () => {
    const { status, headers, body } = await call(gateway, '/v1/nothing?secret=1', { key: acme });
    expect(status).toBe(404);
    expect(headers.get('content-type')).toMatch(/^application\/problem\+json/);
    expect(body).toMatchObject({
      type: expect.any(String),
      title: 'Not found',
      status: 404,
      detail: expect.any(String),
      instance: '/v1/nothing',
      error_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      error_code: 'NOT_FOUND',
      message: expect.any(String),
      timestamp: expect.stringMatching(/^\d{4}-.*Z$/),
      request_id: headers.get('x-request-id'),
      trace_id: expect.stringMatching(/^[0-9a-f]{32}$/),
    });
  });

  it('name each place that does not fit', async () => {
    const { status, body } = await call(gateway, path, {
      key: acme,
      body: { message: 5, extra: 1, persona_id: '' },
    });
    expect(status).toBe(422);
    expect(body).toMatchObject({ error_code: 'VALIDATION_ERROR' });
    const paths = (body.errors as { path: string; message: string }[]).map((error) => error.path);
    expect(paths.sort()).toEqual(['/extra', '/message', '/persona_id']);
  });

  it('carry the security headers, as every reply does', async () => {
    const replies = await Promise.all([
      call(gateway, '/live'),
      call(gateway, '/nowhere'),
      call(gateway, path, { body: message }),
      call(gateway, path, { key: acme, body: message }),
    ]);
    expect(replies.map(({ status }) => status)).toEqual([200, 404, 401, 202]);
    for (const { headers } of replies) {
      expect(headers.get('x-content-type-options')).toBe('nosniff');
      expect(headers.get('x-frame-options')).toBe('DENY');
      expect(headers.get('x-xss-protection')).toBe('0');
      expect(headers.get('content-security-policy')).toContain("default-src 'none'");
      expect(headers.get('referrer-policy')).toBe('no-referrer');
      expect(headers.get('x-request-id')).toMatch(/./);
    }
  });
});

describe('credentials', () => {
  it('are asked for before the body is read', async () => {
    const { status, headers, body } = await call(gateway, path, { raw: '{not json' });
    expect(status).toBe(401);
    expect(body).toMatchObject({ error_code: 'UNAUTHENTICATED' });
    expect(headers.get('www-authenticate')).toContain('Bearer');
    const record = await gateway.log('auth.refused');
    expect(record).toMatchObject({ level: 'WARNING', ip: '127.0.0.1', route: path });
  });

  it('come as X-API-Key or as Bearer, both only when they are the same', async () => {
    const bearer = { authorization: `Bearer ${acme}` };
    const sent = [
      await call(gateway, path, { body: message, headers: bearer }),
      await call(gateway, path, { body: message, headers: { ...bearer, 'x-api-key': acme } }),
      await call(gateway, path, { body: message, headers: { ...bearer, 'x-api-key': fixture.keys.globex } }),
      await call(gateway, path, { body: message, headers: { authorization: 'Bearer ey.some.jwt' } }),
      await call(gateway, path, { body: message, key: acme.replace('sk_dev', 'sk_prod') }),
    ];
    expect(sent.map(({ status }) => status)).toEqual([202, 202, 401, 401, 401]);
    expect(JSON.stringify(gateway.logs)).not.toContain(acme.slice(-32));
  });
});

describe('browsers', () => {
  it('of a listed site may call and read the reply', async () => {
    const origin = 'https://app.example.com';
    const asked = await fetch(gateway.url + path, {
      method: 'OPTIONS',
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'x-api-key',
      },
    });
    expect(asked.status).toBe(204);
    expect(asked.headers.get('access-control-allow-origin')).toBe(origin);
    const { status, headers } = await post(gateway, acme, message, { origin });
    expect(status).toBe(202);
    expect(headers.get('access-control-expose-headers')).toContain('Location');
  });

  it('of any other are refused with 403', async () => {
    const { status, body } = await post(gateway, acme, message, { origin: 'https://evil.example.com' });
    expect(status).toBe(403);
    expect(body).toMatchObject({ error_code: 'ORIGIN_REFUSED' });
    await gateway.log('cors.refused');
  });
});

it('refuses what is too large, also where only the stored form is', async () => {
  const huge = await call(gateway, path, { key: acme, body: { message: 'x'.repeat(2_100_000) } });
  expect(huge).toMatchObject({ status: 413, body: { error_code: 'BODY_TOO_LARGE' } });
  const large = await call(gateway, path, { key: acme, body: { message: 'x'.repeat(950_000) } });
  expect(large).toMatchObject({ status: 413, body: { error_code: 'BODY_TOO_LARGE' } });
  expect((await call(gateway, path, { key: acme, body: { message: 'x'.repeat(800_000) } })).status).toBe(202);
});

it('limits a tenant, tells by headers how far it may go, and leaves the other alone', async () => {
  const first = await call(gateway, '/v1/sessions', { key: acme });
  expect(first.headers.get('ratelimit-limit')).toBe('40');
  expect(Number(first.headers.get('ratelimit-remaining'))).toBeGreaterThan(0);
  let last = first;
  for (let i = 0; i < 60 && last.status === 200; i += 1)
    last = await call(gateway, '/v1/sessions', { key: acme });
  expect(last).toMatchObject({ status: 429, body: { error_code: 'RATE_LIMITED' } });
  expect(Number(last.headers.get('retry-after'))).toBeGreaterThan(0);
  expect(last.headers.get('ratelimit-remaining')).toBe('0');
  expect((await call(gateway, '/v1/sessions', { key: fixture.keys.globex })).status).toBe(200);
  expect((await call(gateway, '/live')).status).toBe(200);
});

it('answers 503 with Retry-After while too many rows wait for the broker', async () => {
  const full = await fixture.start({ OUTBOX_MAX_ROWS: '1', KAFKA_BOOTSTRAP_SERVERS: '127.0.0.1:9' });
  const answers: number[] = [];
  let refused: Awaited<ReturnType<typeof post>> | undefined;
  let key = '';
  const stored = () => fixture.db.query('select from gateway.messages');
  for (let i = 0; i < 100 && refused === undefined; i += 1) {
    key = newId();
    const answer = await post(full, fixture.keys.globex, message, { 'idempotency-key': key });
    answers.push(answer.status);
    if (answer.status !== 202) refused = answer;
    else await new Promise((resolve) => setTimeout(resolve, 50));
  }
  expect(refused).toMatchObject({ status: 503, body: { error_code: 'OUTBOX_FULL' } });
  expect(Number(refused?.headers.get('retry-after'))).toBeGreaterThan(0);
  expect(answers.filter((status) => status === 202).length).toBeGreaterThan(1);
  const session = (await post(gateway, fixture.keys.globex, message)).body.session_id;
  const others: [string, string, object?][] = [
    ['POST', '/v1/session/action', { session_id: session, action: 'cancel' }],
    ['POST', '/v1/memory', { text: 'hello' }],
    ['DELETE', `/v1/memory/${newId()}`],
    ['POST', '/v1/memory/exports', {}],
    ['POST', `/v1/sessions/${session}/export`],
  ];
  for (const [method, other, body] of others) {
    const answer = await call(full, other, { key: fixture.keys.globex, method, ...(body && { body }) });
    expect.soft(answer, other).toMatchObject({ status: 503, body: { error_code: 'OUTBOX_FULL' } });
  }
  // Nothing of the refusal is kept: elsewhere the same key is as new.
  const before = await stored();
  const elsewhere = await post(gateway, fixture.keys.globex, message, { 'idempotency-key': key });
  expect(elsewhere.status).toBe(202);
  expect(elsewhere.headers.get('idempotency-replayed')).toBeNull();
  expect(await stored()).toHaveLength(before.length + 1);
}, 60_000);
