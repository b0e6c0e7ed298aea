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
      hung.board.add({
        name,
        required: true,
        timeoutMs: 60_000,
        probe: () => new Promise<void>(() => undefined),
      });
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
    expect(await problemIn(response)).toMatchObject({ error_code: 'NOT_FOUND' });
  });
});
