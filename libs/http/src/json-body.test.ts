import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { problemIn } from '../test/replies.ts';
import { type RunningServer, startServer } from '../test/running-server.ts';
import { sampleRoutes } from '../test/sample-routes.ts';

let running: RunningServer;

beforeAll(async () => {
  running = await startServer({
    routes: (server) => sampleRoutes(server, () => running.telemetry.log.info('inside')),
    settings: { corsOrigins: ['https://app.example'], bodyLimitBytes: 2000 },
    openapi: { title: 'Under test', description: 'A server.' },
  });
});
afterAll(() => running[Symbol.asyncDispose]());

function post(body: string | Buffer, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`${running.url}/v1/things`, {
    method: 'POST',
    body: new Uint8Array(Buffer.from(body)),
    headers: { 'content-type': 'application/json', ...headers },
  });
}

describe('bodies', () => {
  it('come to the handler as they are, with their bytes', async () => {
    const body = JSON.stringify({ count: 1, name: 'x' });
    const response = await post(body);
    expect(response.status).toBe(202);
    expect(await response.json()).toEqual({ count: 1, name: 'x', bytes: body.length });
  });

  it.each([
    ['bad JSON', '{', 400, 'MALFORMED_REQUEST', undefined],
    ['empty', '', 400, 'MALFORMED_REQUEST', undefined],
    ['a key twice', '{"count":1,"count":2}', 400, 'MALFORMED_REQUEST', ['/count']],
    ['not UTF-8', Buffer.from([0x22, 0xc3, 0x28, 0x22]), 400, 'MALFORMED_REQUEST', undefined],
    ['a wrong type', '{"count":"1"}', 422, 'VALIDATION_ERROR', ['/count']],
    ['an unknown field', '{"count":1,"extra/x":2}', 422, 'VALIDATION_ERROR', ['/extra~1x']],
    ['an unknown field inside', '{"count":1,"inside":{"b":1}}', 422, 'VALIDATION_ERROR', ['/inside/b']],
    ['a missing field', '{}', 422, 'VALIDATION_ERROR', ['/count']],
    ['several mistakes', '{"name":"","z":1}', 422, 'VALIDATION_ERROR', ['/count', '/name', '/z']],
    ['NUL', '{"count":1,"name":"\\u0000"}', 422, 'VALIDATION_ERROR', ['/name']],
    ['a lone surrogate', '{"count":1,"name":"\\ud800"}', 422, 'VALIDATION_ERROR', ['/name']],
    ['too deep', `${'['.repeat(70)}${']'.repeat(70)}`, 422, 'VALIDATION_ERROR', ['']],
    ['too large', JSON.stringify({ count: 1, name: 'x'.repeat(3000) }), 413, 'BODY_TOO_LARGE', undefined],
    ['an array', '[]', 422, 'VALIDATION_ERROR', ['']],
  ])('%s', async (_name, body, status, code, paths) => {
    const reply = await problemIn(await post(body));
    expect(reply).toMatchObject({ status, error_code: code });
    const errors = Array.isArray(reply.errors) ? reply.errors : undefined;
    expect(errors?.map((each) => each.path).sort()).toEqual(paths?.sort());
  });

  it.each([
    ['text', { 'content-type': 'text/plain' }],
    ['a form', { 'content-type': 'application/x-www-form-urlencoded' }],
    ['another charset', { 'content-type': 'application/json; charset=iso-8859-1' }],
    ['compressed', { 'content-encoding': 'gzip' }],
  ])('of another type (%s) are 415', async (_name, headers) => {
    expect(await problemIn(await post('{"count":1}', headers))).toMatchObject({
      status: 415,
      error_code: 'UNSUPPORTED_MEDIA_TYPE',
    });
  });

  it('with a charset that is UTF-8 are taken', async () => {
    expect((await post('{"count":1}', { 'content-type': 'application/json; charset=UTF-8' })).status).toBe(
      202,
    );
  });

  it('read to their end leave the connection open, others close it', async () => {
    expect((await post('{')).headers.get('connection')).toBe('keep-alive');
    expect((await post('x'.repeat(3000))).headers.get('connection')).toBe('close');
  });

  it('are bounded also when they come in chunks without a length', async () => {
    const answer = await running.raw(
      `POST /v1/things HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nbb8\r\n${'x'.repeat(3000)}\r\n0\r\n\r\n`,
    );
    expect(answer).toMatch(/^HTTP\/1\.1 413 /);
  });

  it('of a query are read from text, and unknown names refused', async () => {
    const get = (query: string) => fetch(`${running.url}/v1/things/1?${query}`);
    expect(await (await get('limit=5')).json()).toEqual({ limit: 5 });
    expect(await problemIn(await get('limit=50'))).toMatchObject({
      status: 422,
      errors: [{ path: 'querystring/limit' }],
    });
    expect(await problemIn(await get('limit=1&limit=2'))).toMatchObject({ status: 422 });
    expect(await problemIn(await get('other=5'))).toMatchObject({
      status: 422,
      errors: [{ path: 'querystring/other' }],
    });
  });
});
