import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { inside, jsonIn } from '../test/replies.ts';
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

describe('OpenAPI', () => {
  it('is 3.1 and holds the health routes with both bodies, and a problem for each operation', async () => {
    const document = await jsonIn(await fetch(`${running.url}/openapi.json`));
    expect(document.openapi).toBe('3.1.0');
    expect(document.info).toMatchObject({ title: 'Under test', version: '1.2.3' });
    for (const path of ['/ready', '/health/ready', '/health', '/healthz']) {
      const responses = inside(document.paths, path, 'get', 'responses');
      expect(Object.keys(responses).sort()).toEqual(['200', '503', 'default']);
      const bad = inside(responses['503'], 'content', 'application/json', 'schema', 'properties');
      expect(Object.keys(bad)).toContain('checks');
    }
    expect(inside(document.paths, '/live', 'get').security).toEqual([]);
    const operation = inside(document.paths, '/v1/things', 'post');
    expect(inside(operation, 'requestBody', 'content', 'application/json', 'schema').required).toEqual([
      'count',
    ]);
    expect(
      inside(operation, 'responses', 'default', 'content', 'application/problem+json', 'schema'),
    ).toEqual({
      $ref: '#/components/schemas/Problem',
    });
    expect(inside(document.components, 'securitySchemes', 'apiKey').name).toBe('X-API-Key');
    expect(inside(document.components, 'schemas', 'Problem', 'properties')).toHaveProperty('error_id');
    expect(document.paths).not.toHaveProperty('/openapi.json');
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
