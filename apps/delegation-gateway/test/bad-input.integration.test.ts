import { newId } from '@signalbox/contracts/ids';
import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type DelegationFixture, delegationFixture, handlerTask, submit } from './delegation-fixture.ts';

/** What the API does not take, and how it says so. */

let fixture: DelegationFixture;
let gateway: SpawnedService;
let strict: SpawnedService;

beforeAll(async () => {
  fixture = await delegationFixture();
  [gateway, strict] = await Promise.all([
    fixture.start({ WEBHOOK_ALLOWED_HOSTS: '127.0.0.1', CORS_ORIGINS: 'https://app.example' }),
    fixture.start({ RATE_LIMIT_MAX: '3', RATE_LIMIT_WINDOW_MS: '3600000' }),
  ]);
});
afterAll(() => fixture?.close());

const path = '/v1/delegation/task';
const send = (raw: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}, tail = '') =>
  call(gateway, path + tail, { key: fixture.keys.acme, raw, headers });
const ok = '"payload":{"handler":"h","input":{}}';
const deep = (levels: number) =>
  `{"payload":{"handler":"h","input":${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}}}`;

describe('400: not readable', () => {
  it.each([
    ['no JSON', '{payload:1}'],
    ['nothing', ''],
    ['two documents', `{${ok}}{}`],
    ['a duplicate key', `{${ok},"metadata":{},"metadata":{}}`],
    ['a duplicate key deep inside', '{"payload":{"handler":"h","input":{"a":{"b":1,"b":2}}}}'],
    ['a bad number', `{${ok},"deadline_ms":NaN}`],
  ])('%s', async (_, raw) => {
    expect(await send(raw)).toMatchObject({ status: 400, body: { error_code: 'MALFORMED_REQUEST' } });
  });

  it('bytes that are not UTF-8, and a bad Idempotency-Key', async () => {
    const bytes = new Uint8Array([...Buffer.from('{"payload":"'), 0xc0, 0xaf, ...Buffer.from('"}')]);
    expect((await send(bytes)).status).toBe(400);
    expect((await send(`{${ok}}`, { 'idempotency-key': 'a b' })).status).toBe(400);
  });
});

describe('422: readable and wrong', () => {
  it.each([
    ['no payload', '{}'],
    ['a payload of both kinds', '{"payload":{"handler":"h","input":{},"persona_id":"p","message":"m"}}'],
    ['a payload of neither kind', '{"payload":{}}'],
    ['a persona without a message', '{"payload":{"persona_id":"p"}}'],
    ['an empty message', '{"payload":{"persona_id":"p","message":""}}'],
    ['an empty persona', '{"payload":{"persona_id":"","message":"m"}}'],
    ['a handler without input', '{"payload":{"handler":"h"}}'],
    ['input that is no object', '{"payload":{"handler":"h","input":[1]}}'],
    ['a handler of 129 characters', `{"payload":{"handler":"${'h'.repeat(129)}","input":{}}}`],
    ['a priority of 10', '{"payload":{"handler":"h","input":{},"priority":10}}'],
    ['a priority of -1', '{"payload":{"handler":"h","input":{},"priority":-1}}'],
    ['a priority as text', '{"payload":{"handler":"h","input":{},"priority":"5"}}'],
    ['half a priority', '{"payload":{"handler":"h","input":{},"priority":1.5}}'],
    ['an unknown field', `{${ok},"tenant":"globex"}`],
    ['an unknown field in the payload', '{"payload":{"handler":"h","input":{},"depth":9}}'],
    ['a field of the prototype', `{${ok},"__proto__":{"a":1}}`],
    ['a task_id that is no id', `{${ok},"task_id":"x"}`],
    ['a task_id in capitals', `{${ok},"task_id":"${newId().toUpperCase()}"}`],
    ['a deadline of no time', `{${ok},"deadline_ms":99}`],
    ['a deadline of more than a week', `{${ok},"deadline_ms":604800001}`],
    ['a deadline as text', `{${ok},"deadline_ms":"1000"}`],
    ['metadata that is no object', `{${ok},"metadata":[]}`],
    ['metadata of 65 entries', `{${ok},"metadata":{${Array.from({ length: 65 }, (_, n) => `"k${n}":1`)}}}`],
    ['NUL', '{"payload":{"handler":"h","input":{"a":"\\u0000"}}}'],
    ['a lone surrogate', '{"payload":{"persona_id":"p","message":"\\ud83d"}}'],
    ['an infinite number', '{"payload":{"handler":"h","input":{"n":1e999}}}'],
    ['too deep', deep(64)],
    ['null', 'null'],
    ['a callback_url that is relative', `{${ok},"callback_url":"/x"}`],
    ['a callback_url with a user', `{${ok},"callback_url":"https://a:b@example.com/"}`],
    ['a callback_url of another scheme', `{${ok},"callback_url":"ftp://example.com/"}`],
    ['a callback_url that is long', `{${ok},"callback_url":"https://example.com/${'x'.repeat(2048)}"}`],
    ['a callback_url to this machine', `{${ok},"callback_url":"https://localhost/"}`],
    ['a callback_url to metadata, decimal', `{${ok},"callback_url":"http://2852039166/"}`],
    ['a callback_url to IPv6 mapped', `{${ok},"callback_url":"https://[::ffff:10.0.0.1]/"}`],
  ])('%s', async (_, raw) => {
    const { status, body } = await send(raw);
    expect({ status, code: body.error_code }).toEqual({ status: 422, code: 'VALIDATION_ERROR' });
    expect((body.errors as unknown[]).length).toBeGreaterThan(0);
  });

  it('the same for input and cancels', async () => {
    const { task_id: id } = (await send(`{${ok}}`)).body;
    for (const [tail, raw] of [
      ['cancel', '{"reason":""}'],
      ['cancel', `{"reason":"${'x'.repeat(501)}"}`],
      ['cancel', '{"why":"x"}'],
      ['callback', '{}'],
      ['callback', '{"input":1}'],
      ['callback', '{"input":{"a":"\\u0000"}}'],
      ['callback', '{"input":{},"input_id":"x"}'],
    ]) {
      expect([raw, (await send(raw ?? '', {}, `/${id}/${tail}`)).status]).toEqual([raw, 422]);
    }
    expect((await send('{"input":{}', {}, `/${id}/callback`)).status).toBe(400);
    expect((await send('', {}, `/${id}/callback`)).status).toBe(400);
  });
});

it('413: payload, metadata and input over their limits, each alone', async () => {
  const large = 'x'.repeat(262_144);
  expect((await send(`{"payload":{"persona_id":"p","message":"${large}"}}`)).status).toBe(413);
  expect((await send(`{${ok},"metadata":{"a":"${'x'.repeat(16_384)}"}}`)).status).toBe(413);
  expect((await send(`{"payload":{"persona_id":"p","message":"${'x'.repeat(1_100_000)}"}}`)).status).toBe(
    413,
  );
  const fits = await send(`{"payload":{"persona_id":"p","message":"${large.slice(200)}"}}`);
  expect(fits.status).toBe(202);
  const over = await send(`{"input":{"a":"${large}"}}`, {}, `/${fits.body.task_id}/callback`);
  expect(over.status).toBe(413);
});

it('takes what is unusual and right', async () => {
  for (const raw of [
    deep(62),
    `{${ok},"metadata":{"a":[null,1.5,"\\ud83d\\ude00"]}}`,
    `{${ok},"deadline_ms":604800000}`,
    `{${ok},"callback_url":"https://1.1.1.1:8443/x?y#z"}`,
    `{${ok},"callback_url":"http://127.0.0.1:9000/hook"}`, // WEBHOOK_ALLOWED_HOSTS, in dev
    '{"payload":{"handler":"\\u2028\'; drop table x; --","input":{"":{}}}}',
  ]) {
    expect([raw, (await send(raw)).status]).toEqual([raw, 202]);
  }
});

it('404, 405 and 415 as every gateway, 401 without a credential, 403 for another origin', async () => {
  const { acme: key } = fixture.keys;
  for (const id of [newId(), 'x', '%00', "1'--"]) {
    for (const tail of ['', '/events']) {
      expect((await call(gateway, `${path}/${id}${tail}`, { key })).status).toBe(404);
    }
    for (const tail of ['/cancel', '/callback']) {
      const answer = await call(gateway, `${path}/${id}${tail}`, {
        key,
        body: tail === '/cancel' ? {} : { input: {} },
      });
      expect(answer.status).toBe(404);
    }
  }
  expect((await send(`{${ok}}`, { 'content-type': 'text/plain' })).status).toBe(415);
  const bare = await call(gateway, path, { body: handlerTask });
  expect([bare.status, bare.body.error_code]).toEqual([401, 'UNAUTHENTICATED']);
  expect((await call(gateway, `${path}/${newId()}/events`)).status).toBe(401);
  const foreign = await call(gateway, path, {
    key,
    body: handlerTask,
    headers: { origin: 'https://evil.example' },
  });
  expect([foreign.status, foreign.body.error_code]).toEqual([403, 'ORIGIN_REFUSED']);
  const own = await call(gateway, path, {
    key,
    body: handlerTask,
    headers: { origin: 'https://app.example' },
  });
  expect([own.status, own.headers.get('access-control-allow-origin')]).toEqual([202, 'https://app.example']);
  expect(own.headers.get('x-content-type-options')).toBe('nosniff');
  expect(own.headers.get('x-request-id')).toMatch(/./);
});

it('429 past the rate limit, with the time to come back', async () => {
  const answers = [];
  for (let n = 0; n < 5; n += 1) answers.push(await submit(strict, fixture.keys.globex));
  expect(answers.map(({ status }) => status)).toEqual([202, 202, 202, 429, 429]);
  expect(answers[4]?.body.error_code).toBe('RATE_LIMITED');
  expect(Number(answers[4]?.headers.get('retry-after'))).toBeGreaterThan(0);
});
