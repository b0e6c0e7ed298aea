import { createServer } from '@signalbox/http/server';
import type { HttpServer } from '@signalbox/http/types';
import { createLifecycle } from '@signalbox/lifecycle/lifecycle';
import type { Database } from '@signalbox/postgres/database';
import { createBoard } from '@signalbox/readiness/board';
import { silentLog as log, silentMetrics as metrics } from '@signalbox/telemetry/silent';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { requireCaller } from './request-caller.ts';
import { createWriteRoutes, type Settled, type WriteRoutes } from './write-routes.ts';

/** What stands between a route that writes and forgetting its Idempotency-Key; effects are idempotency-store's tests. */

let server: HttpServer;
let writes: WriteRoutes;

const away = () => Promise.reject(new Error('no test here gets to the database'));
const database: Database = {
  query: away,
  urgent: { query: away },
  transaction: away,
  listen: () => undefined,
  probe: () => away,
  close: async () => undefined,
};

beforeEach(() => {
  server = createServer({
    settings: {
      serviceName: 'test',
      serviceVersion: '1',
      host: '127.0.0.1',
      port: 0,
      metricsEnabled: false,
    },
    log,
    telemetry: { metrics, metricsText: async () => '' },
    board: createBoard({ service: 'test', version: '1' }),
    lifecycle: createLifecycle(),
  });
  writes = createWriteRoutes({ database, schema: 'probe', timeoutMs: 100 });
  writes.guard(server);
});
afterEach(() => server.close());

/** Adds routes behind a caller `acme`, in a scope of their own as main.ts does. */
async function withRoutes(add: (api: HttpServer) => void): Promise<void> {
  server.register(async (api) => {
    requireCaller(api, {
      authenticate: async () => ({ tenant: 'acme', keyId: 'k', scopes: [] }),
      rateLimit: undefined,
      refusals: metrics.counter('refusals_total', { help: 'x', labels: ['reason'] }),
      log,
    });
    add(api);
  });
  await server.ready();
}
const send = (method: 'POST' | 'DELETE', url: string, key?: string, payload?: object) =>
  server.inject({
    method,
    url,
    ...(key === undefined ? {} : { headers: { 'idempotency-key': key } }),
    ...(payload === undefined ? {} : { payload }),
  });
const made = (n: number): Settled => ({ answer: { status: 201, body: { n } }, replayed: false });

it('a POST that only reads is declared as that: it takes no key and is answered as it is', async () => {
  await withRoutes((api) => {
    const read = writes.declareRead({});
    api.post('/v1/search', read, async () => ({ found: [] }));
  });
  for (const key of [undefined, 'k', 'not a key']) {
    const reply = await send('POST', '/v1/search', key, {});
    expect(reply.statusCode).toBe(200);
    expect(reply.headers['idempotency-replayed']).toBeUndefined();
  }
});

it.each(['POST', 'PUT', 'PATCH', 'DELETE'] as const)(
  'a %s route that does not declare its key fails the start',
  async (method) => {
    const started = withRoutes((api) => {
      api.route({ method, url: '/v1/forgotten', handler: async () => ({}) });
    });
    await expect(started).rejects.toThrow(`${method} /v1/forgotten writes without an Idempotency-Key`);
  },
);

it('a route that answers past its key fails, one that refuses does not', async () => {
  await withRoutes((api) => {
    api.post('/v1/past', writes.declare({}), async () => ({ done: true }));
    api.post('/v1/refused', writes.declare({}), async (_, reply) => reply.code(404).send({}));
    api.get('/v1/read', async () => ({ read: true }));
  });
  expect((await send('POST', '/v1/past')).statusCode).toBe(500);
  expect((await send('POST', '/v1/refused')).statusCode).toBe(404);
  expect((await server.inject('/v1/read')).statusCode).toBe(200);
});

it('a bad key is refused before the body is looked at', async () => {
  await withRoutes((api) => {
    api.post('/v1/things', writes.declare({ body: { type: 'object', required: ['a'] } }), async () => ({}));
  });
  for (const key of ['', 'a b', 'é', 'x'.repeat(256)]) {
    const reply = await send('POST', '/v1/things', key, {});
    expect(reply.statusCode).toBe(400);
    expect(reply.json()).toMatchObject({ errors: [{ path: 'headers/idempotency-key' }] });
  }
});

it('requests of one key go one at a time; the others get its answer, or the next goes when it failed', async () => {
  let went = 0;
  await withRoutes((api) => {
    api.post('/v1/things', writes.declare({}), async (request, reply) => {
      await writes.settle(request, reply, async () => {
        went += 1;
        await new Promise((resolve) => setImmediate(resolve));
        if (went === 1) throw new Error('the first fails');
        return made(went);
      });
    });
  });
  const replies = await Promise.all(
    Array.from({ length: 20 }, () => send('POST', '/v1/things', 'k', { a: 1 })),
  );
  expect(went).toBe(2);
  expect(replies.map(({ statusCode }) => statusCode).sort()).toEqual([...Array(19).fill(201), 500]);
  expect(replies.filter(({ headers }) => headers['idempotency-replayed'] === 'true')).toHaveLength(18);
});

it('tells two bodies apart, and two things of one path', async () => {
  const { promise: gate, resolve: release } = Promise.withResolvers<void>();
  let arrived = 0;
  await withRoutes((api) => {
    for (const method of ['POST', 'DELETE'] as const) {
      api.route({
        method,
        url: '/v1/things/:id',
        ...writes.declare({}),
        handler: async (request, reply) => {
          arrived += 1;
          if (arrived === 5) release();
          await writes.settle(request, reply, async () => {
            await gate;
            return made(1);
          });
        },
      });
    }
  });
  const replies = await Promise.all([
    send('POST', '/v1/things/1', 'k', { a: 1 }),
    send('POST', '/v1/things/1', 'k', { a: 2 }),
    send('POST', '/v1/things/2', 'k', { a: 1 }),
    send('POST', '/v1/things/1', 'k', { a: 1 }),
    send('DELETE', '/v1/things/1', 'k'),
  ]);
  expect(replies.map(({ statusCode }) => statusCode)).toEqual([201, 422, 422, 201, 201]);
  expect(replies.map(({ headers }) => headers['idempotency-replayed'])).toEqual([
    undefined,
    undefined,
    undefined,
    'true',
    undefined,
  ]);
});
