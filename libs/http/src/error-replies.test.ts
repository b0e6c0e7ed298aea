import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { problemIn } from '../test/replies.ts';
import { type RunningServer, startServer } from '../test/running-server.ts';
import { sampleRoutes } from '../test/sample-routes.ts';
import { securityHeaders } from './security-headers.ts';

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

describe('problem replies', () => {
  it('tell nothing of a defect but the id that finds its log record', async () => {
    const reply = await problemIn(await fetch(`${running.url}/v1/defect?key=sk_x`));
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
      stack: expect.stringContaining('sample-routes.ts'),
    });
  });

  it('say when to come back', async () => {
    const response = await fetch(`${running.url}/v1/away`);
    expect(await problemIn(response)).toMatchObject({ status: 503, error_code: 'DATABASE_UNAVAILABLE' });
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
    expect(await problemIn(await fetch(running.url + path))).toMatchObject({ status, error_code: code });
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
    await using strict = await startServer({ routes: sampleRoutes, settings: { requestTimeoutMs: 300 } });
    const startedAt = performance.now();
    expect(
      await strict.raw(
        'POST /v1/things HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\nx',
      ),
    ).toMatch(/^HTTP\/1\.1 408 /);
    expect(performance.now() - startedAt).toBeLessThan(4000);
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
      expect(await problemIn(response)).toMatchObject({ status: 403, error_code: 'ORIGIN_REFUSED' });
      expect(response.headers.get('access-control-allow-origin')).toBeNull();
      expect(running.record('cors.refused', (each) => each.origin === origin)).toMatchObject({
        level: 'WARNING',
        ip: '127.0.0.1',
      });
    },
  );
});
