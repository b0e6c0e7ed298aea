import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import { startSpanCollector } from '@signalbox/testkit/span-collector';
import { waitFor } from '@signalbox/testkit/wait';
import { Type } from 'typebox';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type RunningServer, startServer } from '../test/running-server.ts';
import { identifyRequest } from './observe-request.ts';
import { securityHeaders } from './security-headers.ts';
import type { HttpServer } from './types.ts';

let running: RunningServer;

const Body = Type.Object(
  {
    count: Type.Integer(),
    name: Type.Optional(Type.String({ minLength: 1 })),
    inside: Type.Optional(Type.Object({ a: Type.Optional(Type.Boolean()) }, { additionalProperties: false })),
  },
  { additionalProperties: false },
);
const Query = Type.Object(
  { limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 10 })) },
  { additionalProperties: false },
);

function routes(server: HttpServer): void {
  server.post('/v1/things', { schema: { body: Body } }, (request, reply) => {
    reply.code(202).send({ ...request.body, bytes: request.rawBody?.length });
  });
  server.get('/v1/things/:id', { schema: { querystring: Query } }, (request) => ({
    limit: request.query.limit ?? null,
  }));
  server.get('/v1/defect', () => {
    throw new TypeError('connection to postgres://user:secret@db failed');
  });
  server.get('/v1/away', () => {
    throw fault('DATABASE_UNAVAILABLE', 'the database is away', { retryAfterMs: 2500 });
  });
  server.get('/v1/who', (request) => {
    identifyRequest(request, { tenantId: 'acme', sessionId: 's1' });
    running.telemetry.log.info('inside');
    return {};
  });
  server.get('/v1/refused', () => {
    throw fault('UNAUTHENTICATED', 'no key');
  });
}

beforeAll(async () => {
  running = await startServer({
    routes,
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

async function problem(response: Response): Promise<Record<string, unknown>> {
  expect(response.headers.get('content-type')).toBe('application/problem+json; charset=utf-8');
  const body = await response.json();
  expect(body).toMatchObject({
    type: `urn:signalbox:error:${body.error_code}`,
    title: expect.any(String),
    status: response.status,
    detail: expect.any(String),
    message: body.detail,
    error_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
    timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
    request_id: response.headers.get('x-request-id'),
  });
  return body;
}

describe('health routes', () => {
  it('answer from the board alone', async () => {
    const get = async (path: string) => {
      const response = await fetch(running.url + path);
      return [response.status, await response.json()];
    };
    expect(await get('/live')).toEqual([200, { status: 'alive' }]);
    expect(await get('/health/live')).toEqual([200, { status: 'alive' }]);
    expect((await get('/ready'))[1]).toMatchObject({ status: 'starting' });
    running.board.report('database', { status: 'down', reason: 'schema' }, true);
    running.board.markStarted();
    expect(await get('/health/ready')).toMatchObject([
      503,
      { status: 'unready', reason: 'schema', checks: { database: { status: 'down' } } },
    ]);
    expect(await get('/health')).toMatchObject([503, { status: 'down', version: '1.2.3' }]);
    expect(await get('/healthz')).toMatchObject([503, { status: 'down' }]);
    running.board.report('database', { status: 'ok' }, true);
    expect(await get('/ready')).toEqual([200, { status: 'ready' }]);
    expect(await get('/health')).toMatchObject([200, { status: 'ok', uptime_seconds: expect.any(Number) }]);
    expect(await get('/healthz')).toMatchObject([200, { status: 'ok' }]);
    expect(await get('/version')).toEqual([
      200,
      { name: 'under-test', version: '1.2.3', commit: 'abc', node: process.version },
    ]);
  });

  it('answer within 200 ms while every probe hangs', async () => {
    await using hung = await startServer();
    for (const name of ['database', 'kafka', 'redis']) {
      hung.board.add({ name, required: true, timeoutMs: 60_000, probe: () => new Promise(() => undefined) });
    }
    hung.board.start();
    hung.board.markStarted();
    for (const path of ['/live', '/ready', '/health', '/healthz', '/metrics']) {
      const startedAt = performance.now();
      await (await fetch(hung.url + path)).arrayBuffer();
      expect(performance.now() - startedAt).toBeLessThan(200);
    }
  });

  it('/metrics is not there when metrics are off', async () => {
    await using off = await startServer({ metrics: false });
    const response = await fetch(`${off.url}/metrics`);
    expect(response.status).toBe(404);
    expect((await response.json()).error_code).toBe('NOT_FOUND');
  });
});

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
    const reply = await problem(await post(body));
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
    expect(await problem(await post('{"count":1}', headers))).toMatchObject({
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
    expect(await problem(await get('limit=50'))).toMatchObject({
      status: 422,
      errors: [{ path: 'querystring/limit' }],
    });
    expect(await problem(await get('limit=1&limit=2'))).toMatchObject({ status: 422 });
    expect(await problem(await get('other=5'))).toMatchObject({
      status: 422,
      errors: [{ path: 'querystring/other' }],
    });
  });
});

describe('problem replies', () => {
  it('tell nothing of a defect but the id that finds its log record', async () => {
    const reply = await problem(await fetch(`${running.url}/v1/defect?key=sk_x`));
    expect(reply).toMatchObject({ status: 500, error_code: 'INTERNAL_ERROR', instance: '/v1/defect' });
    expect(JSON.stringify(reply)).not.toContain('postgres');
    const record = await waitFor(
      () => running.record('http.request', (each) => each.error_id === reply.error_id),
      (found) => found !== undefined,
    );
    expect(record).toMatchObject({
      level: 'ERROR',
      path: '/v1/defect',
      status: 500,
      error_code: 'INTERNAL_ERROR',
      error_type: 'TypeError',
      stack: expect.stringContaining('server.test.ts'),
    });
  });

  it('say when to come back', async () => {
    const response = await fetch(`${running.url}/v1/away`);
    expect(await problem(response)).toMatchObject({ status: 503, error_code: 'DATABASE_UNAVAILABLE' });
    expect(response.headers.get('retry-after')).toBe('3');
  });

  it('name the way to authenticate', async () => {
    expect((await fetch(`${running.url}/v1/refused`)).headers.get('www-authenticate')).toContain('Bearer');
  });

  it.each([
    ['/nothing', 404, 'NOT_FOUND'],
    ['/%zz', 400, 'MALFORMED_REQUEST'],
    [`/v1/things/${'x'.repeat(600)}`, 400, 'MALFORMED_REQUEST'],
  ])('%s', async (path, status, code) => {
    expect(await problem(await fetch(running.url + path))).toMatchObject({ status, error_code: code });
  });

  it('answer bytes that are no HTTP, too many header bytes, and a request that drips', async () => {
    const garbage = await running.raw('HELLO\r\n\r\n');
    expect(garbage).toMatch(/^HTTP\/1\.1 400 Bad Request/);
    expect(garbage).toContain('application/problem+json');
    for (const name of Object.keys(securityHeaders)) expect(garbage).toContain(`${name}: `);
    expect(JSON.parse(garbage.slice(garbage.indexOf('\r\n\r\n')))).toMatchObject({
      error_code: 'MALFORMED_REQUEST',
      status: 400,
    });
    expect(await running.raw(`GET / HTTP/1.1\r\nhost: x\r\nbig: ${'x'.repeat(20_000)}\r\n\r\n`)).toMatch(
      /^HTTP\/1\.1 431 /,
    );
    await using strict = await startServer({ routes, settings: { requestTimeoutMs: 300 } });
    const startedAt = performance.now();
    expect(
      await strict.raw(
        'POST /v1/things HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\nx',
      ),
    ).toMatch(/^HTTP\/1\.1 408 /);
    expect(performance.now() - startedAt).toBeLessThan(4000);
  });
});

describe('request ids and traces', () => {
  it.each(['abc', 'A.b_c-1', 'x'.repeat(128)])('keeps %s', async (id) => {
    expect(
      (await fetch(`${running.url}/live`, { headers: { 'x-request-id': id } })).headers.get('x-request-id'),
    ).toBe(id);
  });

  it.each(['', 'a b', 'x'.repeat(129), 'ü', '<script>'])('makes a new id for "%s"', async (id) => {
    const answer = await running.raw(
      `GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: ${id}\r\n\r\n`,
    );
    expect(answer).toMatch(/x-request-id: [0-9a-f]{8}-[0-9a-f-]{27}\r\n/);
  });

  it('goes on with a good traceparent and begins anew with a bad one', async () => {
    const traceId = '0af7651916cd43dd8448eb211c80319c';
    const trace = async (traceparent: string) => {
      const response = await fetch(`${running.url}/nothing`, { headers: { traceparent } });
      return (await response.json()).trace_id;
    };
    expect(await trace(`00-${traceId}-b7ad6b7169203331-01`)).toBe(traceId);
    for (const bad of [
      `00-${'0'.repeat(32)}-b7ad6b7169203331-01`,
      'x',
      `ff-${traceId}-b7ad6b7169203331-01`,
    ]) {
      expect(await trace(bad)).toMatch(/^(?!0af7651916)[0-9a-f]{32}$/);
    }
  });

  it('puts ids into every record written inside, and into the record of the request', async () => {
    const response = await fetch(`${running.url}/v1/who`, { headers: { 'x-request-id': newId() } });
    const requestId = response.headers.get('x-request-id');
    const mine = (record: Record<string, unknown>) => record.request_id === requestId;
    await waitFor(
      () => running.record('http.request', mine),
      (found) => found !== undefined,
    );
    const ids = {
      request_id: requestId,
      tenant_id: 'acme',
      session_id: 's1',
      trace_id: expect.stringMatching(/^[0-9a-f]{32}$/),
    };
    expect(running.record('inside', mine)).toMatchObject(ids);
    expect(running.record('http.request', mine)).toMatchObject({
      ...ids,
      method: 'GET',
      path: '/v1/who',
      status: 200,
    });
  });

  it('records one server span a request under the caller, none for probes', async () => {
    await using collector = await startSpanCollector();
    await using traced = await startServer({ routes, otlpEndpoint: collector.url });
    const traceId = '1af7651916cd43dd8448eb211c80319c';
    const headers = { traceparent: `00-${traceId}-b7ad6b7169203331-01` };
    await fetch(`${traced.url}/live`, { headers });
    await fetch(`${traced.url}/v1/away`, { headers });
    await fetch(`${traced.url}/v1/things/7`, { headers });
    const spans = await collector.untilTrace(traceId, (found) => found.length >= 2);
    expect(spans.map((span) => [span.name, span.kind, span.parentSpanId, span.status]).sort()).toEqual([
      ['GET /v1/away', 2, 'b7ad6b7169203331', 2],
      ['GET /v1/things/:id', 2, 'b7ad6b7169203331', 0],
    ]);
    expect(spans.find((span) => span.status === 2)?.attributes).toMatchObject({
      'http.response.status_code': 503,
      'signalbox.error_code': 'DATABASE_UNAVAILABLE',
    });
  });
});

describe('headers', () => {
  it('secure every reply, whatever it is', async () => {
    const replies = await Promise.all([
      fetch(`${running.url}/live`),
      fetch(`${running.url}/nothing`),
      fetch(`${running.url}/v1/defect`),
      fetch(`${running.url}/%zz`),
      fetch(`${running.url}/live`, { method: 'OPTIONS' }),
      fetch(`${running.url}/live`, { headers: { origin: 'https://evil.example' } }),
      post('{'),
    ]);
    for (const { headers } of replies) {
      for (const [name, value] of Object.entries(securityHeaders)) expect(headers.get(name)).toBe(value);
      expect(headers.get('x-request-id')).not.toBeNull();
      expect(headers.get('strict-transport-security')).toBeNull();
    }
  });

  it('ask for TLS behind a proxy that ends it', async () => {
    await using behind = await startServer({ settings: { trustProxy: true } });
    const response = await fetch(`${behind.url}/live`, { headers: { 'x-forwarded-proto': 'https' } });
    expect(response.headers.get('strict-transport-security')).toContain('max-age=31536000');
  });
});

describe('CORS', () => {
  it('answers a preflight of a listed origin, for any path', async () => {
    const response = await fetch(`${running.url}/v1/anything`, {
      method: 'OPTIONS',
      headers: { origin: 'https://app.example', 'access-control-request-method': 'POST' },
    });
    expect(response.status).toBe(204);
    expect(response.headers.get('access-control-allow-origin')).toBe('https://app.example');
    expect(response.headers.get('access-control-allow-headers')).toContain('X-API-Key');
    expect(response.headers.get('vary')).toBe('Origin');
  });

  it('lets a listed origin and a page of this server read replies', async () => {
    const listed = await fetch(`${running.url}/nothing`, { headers: { origin: 'https://app.example' } });
    expect(listed.headers.get('access-control-allow-origin')).toBe('https://app.example');
    expect(listed.headers.get('access-control-expose-headers')).toContain('X-Request-ID');
    expect((await fetch(`${running.url}/live`, { headers: { origin: running.url } })).status).toBe(200);
  });

  it.each(['https://evil.example', 'null', 'https://app.example.evil.example', 'http://app.example'])(
    'refuses %s and says so in the log',
    async (origin) => {
      const response = await fetch(`${running.url}/live`, { headers: { origin } });
      expect(await problem(response)).toMatchObject({ status: 403, error_code: 'ORIGIN_REFUSED' });
      expect(response.headers.get('access-control-allow-origin')).toBeNull();
      expect(running.record('cors.refused', (each) => each.origin === origin)).toMatchObject({
        level: 'WARNING',
        ip: '127.0.0.1',
      });
    },
  );
});

describe('metrics', () => {
  it('count by route pattern, known method and status', async () => {
    await fetch(`${running.url}/v1/things/123`);
    await fetch(`${running.url}/not/${newId()}`);
    const text = await waitFor(
      async () => (await fetch(`${running.url}/metrics`)).text(),
      (all) => all.includes('route="/v1/things/:id"') && all.includes('route="unmatched"'),
    );
    expect(text).toMatch(/http_request_duration_seconds_count\{[^}]*service="under-test"[^}]*\} \d+/);
    expect(text).toMatch(/method="GET"/);
    expect(text).toMatch(/status="404"/);
    expect(text).not.toContain('/v1/things/123');
  });
});

describe('OpenAPI', () => {
  it('is 3.1 and holds the health routes with both bodies, and a problem for each operation', async () => {
    const document = await (await fetch(`${running.url}/openapi.json`)).json();
    expect(document.openapi).toBe('3.1.0');
    expect(document.info).toMatchObject({ title: 'Under test', version: '1.2.3' });
    for (const path of ['/ready', '/health/ready', '/health', '/healthz']) {
      const { responses } = document.paths[path].get;
      expect(Object.keys(responses).sort()).toEqual(['200', '503', 'default']);
      expect(responses['503'].content['application/json'].schema.properties.checks).toBeDefined();
    }
    expect(document.paths['/live'].get.security).toEqual([]);
    const operation = document.paths['/v1/things'].post;
    expect(operation.requestBody.content['application/json'].schema.required).toEqual(['count']);
    expect(operation.responses.default.content['application/problem+json'].schema.$ref).toBe(
      '#/components/schemas/Problem',
    );
    expect(document.components.securitySchemes.apiKey.name).toBe('X-API-Key');
    expect(document.components.schemas.Problem.properties.error_id).toBeDefined();
    expect(document.paths['/openapi.json']).toBeUndefined();
  });

  it('has a page whose policy allows what it loads, and all of it is here', async () => {
    const response = await fetch(`${running.url}/docs/`);
    expect(response.status).toBe(200);
    const policy = response.headers.get('content-security-policy') ?? '';
    expect(policy).toContain("script-src 'self'");
    const page = await response.text();
    expect(page).not.toMatch(/<script(?![^>]*src=)/);
    const parts = [...page.matchAll(/(?:src|href)="(\.\/static\/[^"]+)"/g)].map((match) => match[1] ?? '');
    expect(parts.length).toBeGreaterThan(3);
    for (const part of parts) expect((await fetch(new URL(part, `${running.url}/docs/`))).status).toBe(200);
  });
});
