import { newId } from '@signalbox/contracts/ids';
import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type GatewayFixture, gatewayFixture } from './gateway-fixture.ts';

/** Every line of "Bad input" in the contract. */

let fixture: GatewayFixture;
let gateway: SpawnedService;

beforeAll(async () => {
  fixture = await gatewayFixture();
  gateway = await fixture.start();
});
afterAll(() => fixture?.close());

const path = '/v1/session/message';
const send = (raw: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) =>
  call(gateway, path, { key: fixture.keys.acme, raw, headers });
const bytes = (...parts: (string | number[])[]) =>
  new Uint8Array(parts.flatMap((part) => (typeof part === 'string' ? [...Buffer.from(part)] : part)));
const deep = (levels: number) => `{"message":"x","metadata":${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}}`;

describe('400: not readable', () => {
  it.each([
    ['no JSON', '{message:"x"}'],
    ['cut JSON', '{"message":"x"'],
    ['two documents', '{"message":"x"}{}'],
    ['nothing', ''],
    ['a duplicate key', '{"message":"a","message":"b"}'],
    ['a duplicate key inside', '{"message":"a","metadata":{"k":1,"k":1}}'],
    ['a duplicate key written twice differently', '{"message":"a","m\\u0065ssage":"b"}'],
    ['a control character in a text', '{"message":"a\nb"}'],
    ['NaN', '{"message":"a","metadata":{"n":NaN}}'],
  ])('%s', async (_, raw) => {
    expect(await send(raw)).toMatchObject({ status: 400, body: { error_code: 'MALFORMED_REQUEST' } });
  });

  it.each([
    ['a lone continuation byte', bytes('{"message":"', [0x80], '"}')],
    ['an overlong form', bytes('{"message":"', [0xc0, 0xaf], '"}')],
    ['a surrogate as bytes', bytes('{"message":"', [0xed, 0xa0, 0x80], '"}')],
    ['UTF-16', new Uint8Array(Buffer.from('{"message":"x"}', 'utf16le'))],
  ])('not UTF-8: %s', async (_, raw) => {
    expect(await send(raw)).toMatchObject({ status: 400, body: { error_code: 'MALFORMED_REQUEST' } });
  });

  it('a bad Idempotency-Key', async () => {
    for (const key of [' ', 'a b', 'x'.repeat(256)]) {
      expect((await send('{"message":"x"}', { 'idempotency-key': key })).status).toBe(400);
    }
  });
});

describe('422: readable and wrong', () => {
  it.each([
    ['wrong type', '{"message":5}'],
    ['a number as text where a text is wanted is no text', '{"message":null}'],
    ['persona of the wrong type', '{"message":"x","persona_id":7}'],
    ['metadata of the wrong type', '{"message":"x","metadata":"text"}'],
    ['attachments of the wrong type', '{"message":"x","attachments":[1]}'],
    ['unknown field', '{"message":"x","tenant":"globex"}'],
    ['a field of the prototype', '{"message":"x","__proto__":{"a":1}}'],
    ['no message', '{}'],
    ['an array', '[]'],
    ['a text', '"x"'],
    ['null', 'null'],
    ['empty message', '{"message":""}'],
    ['NUL', '{"message":"a\\u0000b"}'],
    ['NUL deep inside', '{"message":"x","metadata":{"a":["\\u0000"]}}'],
    ['NUL in a name', '{"message":"x","metadata":{"a\\u0000":1}}'],
    ['lone surrogate', '{"message":"\\ud83d"}'],
    ['lone low surrogate in metadata', '{"message":"x","metadata":{"a":"\\ude00x"}}'],
    ['too deep', deep(64)],
    ['an infinite number', '{"message":"x","metadata":{"n":1e999}}'],
    ['unknown persona', '{"message":"x","persona_id":"nobody"}'],
  ])('%s', async (_, raw) => {
    const { status, body } = await send(raw);
    expect({ status, code: body.error_code }).toEqual({ status: 422, code: 'VALIDATION_ERROR' });
    expect((body.errors as unknown[]).length).toBeGreaterThan(0);
  });
});

describe('accepted: unusual and right', () => {
  it.each([
    ['a surrogate pair', '{"message":"\\ud83d\\ude00"}', '😀'],
    ['depth 64', deep(63), 'x'],
    ['blanks around', ' \n{"message":"x"}\t', 'x'],
    [
      'a text that looks like a command',
      '{"message":"\'; drop table gateway.messages; --"}',
      "'; drop table gateway.messages; --",
    ],
    ['quotes, backslashes and braces', '{"message":"{\\"a\\\\\\":,}"}', '{"a\\":,}'],
    ['line separators', '{"message":"a\\u2028b\\r\\n\\u0001"}', 'a\u2028b\r\n\u0001'],
  ])('%s', async (_, raw, text) => {
    const { status, body } = await send(raw);
    expect(status).toBe(202);
    const [row] = await fixture.db.query<{ body: { message: string } }>(
      'select body from gateway.messages where turn_id = $1',
      [body.turn_id],
    );
    expect(row?.body.message).toBe(text);
  });
});

it('415: another type', async () => {
  for (const type of [
    'text/plain',
    'application/x-www-form-urlencoded',
    'application/xml',
    'application/json; charset=latin1',
  ]) {
    const answer = await send('{"message":"x"}', { 'content-type': type });
    expect(answer).toMatchObject({ status: 415, body: { error_code: 'UNSUPPORTED_MEDIA_TYPE' } });
  }
  expect((await send('{"message":"x"}', { 'content-encoding': 'gzip' })).status).toBe(415);
  expect((await send('{"message":"x"}', { 'content-type': 'application/json; charset=utf-8' })).status).toBe(
    202,
  );
});

it('413: too large', async () => {
  expect((await send(`{"message":"${'x'.repeat(1_100_000)}"}`)).status).toBe(413);
});

it('404: unknown session, whatever its form; unknown path', async () => {
  const session = await call(gateway, path, {
    key: fixture.keys.acme,
    body: { message: 'x', session_id: newId() },
  });
  expect(session.status).toBe(404);
  for (const id of [newId(), 'x', '%00', "1'--", newId().toUpperCase()]) {
    for (const tail of [
      `/v1/session/${id}/events`,
      `/v1/sessions/${id}/events`,
      `/v1/sessions/${id}/history`,
    ]) {
      expect((await call(gateway, tail, { key: fixture.keys.acme })).status).toBe(404);
    }
  }
});

it('400 and 422: bad cursors and limits', async () => {
  const get = async (tail: string) => (await call(gateway, tail, { key: fixture.keys.acme })).status;
  const { body } = await send('{"message":"x"}');
  const id = String(body.session_id);
  expect(await get('/v1/sessions?before=x')).toBe(400);
  expect(await get(`/v1/sessions/${id}/events?after=x`)).toBe(400);
  expect(await get(`/v1/sessions/${id}/history?before=x`)).toBe(400);
  expect(await get('/v1/sessions?limit=0')).toBe(422);
  expect(await get('/v1/sessions?limit=abc')).toBe(422);
  expect(await get('/v1/sessions?nope=1')).toBe(422);
});
