import { call } from '@signalbox/testkit/api-call';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type GatewayFixture, gatewayFixture, post } from './gateway-fixture.ts';

let fixture: GatewayFixture;
let gateway: SpawnedService;
const proxies: Record<'kafka' | 'postgres' | 'redis', FaultProxy> = Object.create(null);

beforeAll(async () => {
  fixture = await gatewayFixture();
  const infra = testInfra();
  const [host = '', port = ''] = (infra.kafka.split(',')[0] ?? '').split(':');
  proxies.kafka = await startFaultProxy({ host, port: Number(port), kafka: true });
  proxies.postgres = await startFaultProxy({ url: fixture.database.url });
  proxies.redis = await startFaultProxy({ url: infra.redisUrl });
  gateway = await fixture.start({
    KAFKA_BOOTSTRAP_SERVERS: proxies.kafka.address,
    DATABASE_URL: proxies.postgres.url,
    REDIS_URL: proxies.redis.url,
    READY_GRACE_MS: '2000',
    ACCEPT_TIMEOUT_MS: '1500',
  });
});
afterAll(async () => {
  await Promise.all(Object.values(proxies).map((proxy) => proxy.heal()));
  await fixture?.close();
  await Promise.all(Object.values(proxies).map((proxy) => proxy.close()));
});

type Body = { status: string; reason?: string; checks: Record<string, Record<string, unknown>> };
const health = (path: string) => call<Body>(gateway, path);
const until = (path: string, reached: (answer: { status: number; body: Body }) => boolean) =>
  waitFor(() => health(path), reached, { label: path, timeoutMs: 20_000, intervalMs: 50 });

async function timed(path: string): Promise<{ status: number; ms: number }> {
  const startedAt = performance.now();
  const response = await fetch(gateway.url + path, { signal: AbortSignal.timeout(5000) });
  await response.arrayBuffer();
  return { status: response.status, ms: performance.now() - startedAt };
}

describe('health routes', () => {
  it('says alive, ready and well, without a credential', async () => {
    for (const path of ['/live', '/health/live']) {
      expect(await health(path)).toMatchObject({ status: 200, body: { status: 'alive' } });
    }
    for (const path of ['/ready', '/health/ready']) {
      expect(await health(path)).toMatchObject({ status: 200, body: { status: 'ready' } });
    }
    await until('/health', ({ body }) => body.status === 'ok');
    expect((await health('/healthz')).status).toBe(200);
  });

  it('shows every check of a gateway with status, latency and age', async () => {
    const { body } = await health('/health');
    const names = ['auth_manager', 'breakers', 'database', 'disk', 'kafka', 'outbox', 'redis', 'worker_pool'];
    expect(Object.keys(body.checks).sort()).toEqual(names);
    for (const check of Object.values(body.checks)) {
      expect(check).toMatchObject({
        status: 'ok',
        latency_ms: expect.any(Number),
        age_ms: expect.any(Number),
      });
    }
    expect(body.checks.worker_pool).toMatchObject({ size: 2, busy: 0, queued: 0, failed_total: 0 });
    expect(body).toMatchObject({ version: expect.any(String), uptime_seconds: expect.any(Number) });
  });

  it('tells name, version and its metrics', async () => {
    expect(await call(gateway, '/version')).toMatchObject({
      status: 200,
      body: {
        name: 'gateway',
        version: expect.any(String),
        commit: expect.any(String),
        node: process.version,
      },
    });
    const text = await (await fetch(`${gateway.url}/metrics`)).text();
    for (const name of [
      'service_startup_seconds_bucket',
      'readiness_last_success_timestamp',
      'http_request_duration_seconds_bucket',
      'gateway_sse_connections',
      'gateway_accept_total',
      'auth_refused_total',
      'outbox_pending',
      'consumer_lag',
      'database_connections_active',
    ]) {
      if (name === 'gateway_accept_total') await post(gateway, fixture.keys.acme, { message: 'count me' });
      if (name === 'auth_refused_total') await post(gateway, 'sk_dev_wrong', { message: 'x' });
      const now = await (await fetch(`${gateway.url}/metrics`)).text();
      expect(now, name).toMatch(new RegExp(`^${name}\\{[^}]*service="gateway"`, 'm'));
    }
    expect(text).not.toMatch(/otel_scope|target_info/);
  });

  it('describes itself as OpenAPI 3.1 with these routes, and has a page', async () => {
    const { body } = await call<{
      openapi: string;
      paths: Record<string, Record<string, { responses: object }>>;
    }>(gateway, '/openapi.json');
    expect(body.openapi).toBe('3.1.0');
    expect(Object.keys(body.paths)).toEqual(
      expect.arrayContaining([
        '/v1/session/message',
        '/v1/session/{id}/events',
        '/v1/session/{id}/ws',
        '/v1/sessions',
        '/v1/sessions/{id}/events',
        '/v1/sessions/{id}/history',
        '/v1/tools',
        '/ready',
        '/health',
      ]),
    );
    expect(Object.keys(body.paths['/ready']?.get?.responses ?? {})).toEqual(
      expect.arrayContaining(['200', '503']),
    );
    const page = await fetch(`${gateway.url}/docs/`);
    expect(page.status).toBe(200);
    expect(await page.text()).toContain('swagger-ui');
  });
});

describe('with dependencies away', () => {
  it('goes on accepting without Kafka and Redis, ready for its grace and then not', async () => {
    await Promise.all([proxies.kafka.refuse(), proxies.redis.refuse()]);
    await until(
      '/health',
      ({ body }) => body.checks.kafka?.status === 'down' && body.checks.redis?.status === 'down',
    );
    const inGrace = await health('/ready');
    const accepted = await Promise.all(
      Array.from({ length: 20 }, () => post(gateway, fixture.keys.acme, { message: 'kept' })),
    );
    expect(accepted.map(({ status }) => status)).toEqual(Array(20).fill(202));
    await until(
      '/ready',
      ({ status, body }) => status === 503 && ['kafka', 'redis'].includes(body.reason ?? ''),
    );
    expect([200, 503]).toContain(inGrace.status);
    expect((await post(gateway, fixture.keys.acme, { message: 'kept' })).status).toBe(202);
    expect((await health('/healthz')).status).toBe(503);
    await Promise.all([proxies.kafka.heal(), proxies.redis.heal()]);
    await until('/ready', ({ status }) => status === 200);
  });

  it('is unready at once without its database, answers 503 and keeps nothing of what it refused', async () => {
    await proxies.postgres.refuse();
    await until('/ready', ({ status, body }) => status === 503 && body.reason === 'database');
    const refused = await post(gateway, fixture.keys.acme, { message: 'lost' });
    expect(refused).toMatchObject({ status: 503, body: { error_code: 'DATABASE_UNAVAILABLE' } });
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    await proxies.postgres.heal();
    await until('/ready', ({ status }) => status === 200);
    expect((await post(gateway, fixture.keys.acme, { message: 'again' })).status).toBe(202);
  });

  it('answers /live and /ready under 200 ms with every dependency black-holed', async () => {
    for (const proxy of Object.values(proxies)) proxy.blackhole();
    await until('/ready', ({ status, body }) => status === 503 && body.reason === 'database');
    // Requests that hang in the dead database must not get in the way of a probe.
    const hanging = Array.from({ length: 50 }, () =>
      post(gateway, fixture.keys.acme, { message: 'x' }).catch(() => undefined),
    );
    for (let round = 0; round < 20; round += 1) {
      for (const path of ['/live', '/ready', '/health', '/metrics']) {
        const { status, ms } = await timed(path);
        expect(status).toBe(path === '/live' || path === '/metrics' ? 200 : 503);
        expect(ms, path).toBeLessThan(200);
      }
    }
    await Promise.all(Object.values(proxies).map((proxy) => proxy.heal()));
    await Promise.all(hanging);
    await until('/ready', ({ status }) => status === 200);
  }, 60_000);

  it('starts, lives and waits when nothing is there', async () => {
    const alone = await spawnService('gateway', {
      ...fixture.env,
      KAFKA_BOOTSTRAP_SERVERS: '127.0.0.1:9',
      DATABASE_URL: 'postgres://nobody:x@127.0.0.1:9/none',
      REDIS_URL: 'redis://127.0.0.1:9',
    });
    expect((await call(alone, '/live')).status).toBe(200);
    expect((await call(alone, '/ready')).status).toBe(503);
    const { code, ms } = await alone.stop();
    expect(code).toBe(0);
    expect(ms).toBeLessThan(10_000);
  });
});

it('drains: 503 first, then the end, with one record for each step', async () => {
  const service = await fixture.start({ DRAIN_DELAY_MS: '600' });
  service.kill('SIGTERM');
  const draining = await waitFor(
    () => call<Body>(service, '/ready'),
    ({ status }) => status === 503,
    { label: 'draining' },
  );
  expect(draining.body).toMatchObject({ status: 'draining', reason: 'draining' });
  expect((await post(service, fixture.keys.acme, { message: 'still served' })).status).toBe(202);
  expect(await service.exited).toMatchObject({ code: 0 });
  const events = service.logs.map(({ event }) => event);
  for (const event of ['service.starting', 'config.validated', 'database.ready', 'service.started'])
    expect(events).toContain(event);
  const steps = service.logs.filter(({ event }) => event === 'shutdown.step').map(({ step }) => String(step));
  expect(events.at(-1)).toBe('service.stopped');
  const order = [
    'consumer conversation.outbound',
    'http streams',
    'outbox',
    'redis',
    'database',
    'http server',
  ];
  expect(steps.filter((step) => order.includes(step))).toEqual(order);
});

it('refuses a bad configuration with every mistake and exit 64', async () => {
  const { launchService } = await import('@signalbox/testkit/service');
  const service = launchService('gateway', {
    ...fixture.env,
    PORT: 'x',
    STREAM_EPOCH: '0',
    CORS_ORIGINS: 'nope',
  });
  expect(await service.exited).toMatchObject({ code: 64 });
  const said = service.noise.join('\n') + JSON.stringify(service.logs);
  for (const name of ['PORT', 'STREAM_EPOCH', 'CORS_ORIGINS']) expect(said).toContain(name);
});
