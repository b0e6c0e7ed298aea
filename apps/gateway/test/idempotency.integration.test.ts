import { newId } from '@signalbox/contracts/ids';
import { readAll } from '@signalbox/messaging/read-topic';
import { silentLog as log } from '@signalbox/telemetry/silent';
import { call } from '@signalbox/testkit/api-call';
import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type GatewayFixture, gatewayFixture, post } from './gateway-fixture.ts';

/** Idempotency keys of every route that writes, over two gateways. Those of messages: accept.integration.test.ts. */

let fixture: GatewayFixture;
let gateway: SpawnedService;
let other: SpawnedService;
/** Sends what two gateways have written of one session: neither may by itself. */
let relay: SpawnedService;
let acme: string;

beforeAll(async () => {
  fixture = await gatewayFixture();
  [gateway, other, relay] = await Promise.all([
    fixture.start(),
    fixture.start(),
    spawnService('outbox-sync', fixture.env),
  ]);
  acme = fixture.keys.acme;
});
afterAll(async () => {
  await relay?.[Symbol.asyncDispose]();
  await fixture?.close();
});

/** Records of a session in conversation.inbound, in the order of the log. */
async function inbound(sessionId: string) {
  const records = await readAll({ settings: fixture.settings, topic: 'conversation.inbound', log });
  return records
    .filter(({ key }) => key === `acme:${sessionId}`)
    .map(({ headers }) => headers.event_id ?? '');
}

describe('a write', () => {
  it('has one effect for a hundred at once, on two replicas', async () => {
    const { session_id: sessionId } = (await post(gateway, acme, { message: 'hello' })).body;
    const key = newId();
    const answers = await Promise.all(
      Array.from({ length: 100 }, (_, i) =>
        call(i % 2 === 0 ? gateway : other, '/v1/session/action', {
          key: acme,
          body: { session_id: sessionId, action: 'cancel' },
          headers: { 'idempotency-key': key },
        }),
      ),
    );
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([202]));
    expect(new Set(answers.map(({ body }) => JSON.stringify(body))).size).toBe(1);
    expect(new Set(answers.map(({ headers }) => headers.get('location'))).size).toBe(1);
    const replayed = answers.filter(({ headers }) => headers.get('idempotency-replayed') === 'true');
    expect(replayed).toHaveLength(99);
    const records = await waitFor(
      () => inbound(sessionId),
      (found) => found.length >= 2,
      { label: 'message and action in the log', intervalMs: 200 },
    );
    expect(records).toEqual([expect.any(String), answers[0]?.body.event_id]);
  });

  it('of a session comes in the log where it was answered, messages and actions in turn', async () => {
    const first = (await post(gateway, acme, { message: '0' })).body;
    const { session_id: sessionId } = first;
    const sent = [first.event_id];
    for (let i = 1; i < 20; i += 1) {
      const service = i % 3 === 0 ? other : gateway;
      const answer =
        i % 2 === 0
          ? await post(service, acme, { message: `${i}`, session_id: sessionId })
          : await call(service, '/v1/session/action', {
              key: acme,
              body: { session_id: sessionId, action: 'cancel' },
            });
      expect(answer.status).toBe(202);
      sent.push(String(answer.body.event_id));
    }
    const records = await waitFor(
      () => inbound(sessionId),
      (found) => new Set(found).size === sent.length,
      { label: 'all in the log', intervalMs: 200, timeoutMs: 20_000 },
    );
    // A record may be there twice: its first copy counts.
    expect([...new Set(records)]).toEqual(sent);
  });
});

interface Operation {
  readonly parameters?: readonly { readonly in: string; readonly name: string }[];
  readonly requestBody?: unknown;
  readonly responses: Record<string, unknown>;
}

it('every route that writes declares the header, says what a repeat gets, and looks at the key', async () => {
  type Document = { paths: Record<string, Record<string, Operation>> };
  const { body } = await call<Document>(gateway, '/openapi.json');
  const operations = Object.entries(body.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
  const reads = ['/v1/memory/search'];
  const writing = operations.filter(
    ({ path, method }) => ['post', 'put', 'patch', 'delete'].includes(method) && !reads.includes(path),
  );
  expect(writing.map(({ path }) => path)).toEqual(
    expect.arrayContaining(['/v1/session/message', '/v1/session/action', '/v1/memory', '/v1/notifications']),
  );
  for (const { path, method, operation } of writing) {
    const route = `${method} ${path}`;
    expect
      .soft(operation.parameters, route)
      .toContainEqual(expect.objectContaining({ in: 'header', name: 'idempotency-key' }));
    for (const [status, response] of Object.entries(operation.responses)) {
      if (!status.startsWith('2')) continue;
      expect.soft(response, `${route} ${status}`).toHaveProperty(['headers', 'Idempotency-Replayed']);
    }
    const refused = await call(gateway, path.replaceAll(/\{[^}]+\}/g, newId()), {
      key: acme,
      method: method.toUpperCase(),
      headers: { 'idempotency-key': 'a b' },
      ...(operation.requestBody === undefined ? {} : { body: {} }),
    });
    expect.soft(refused, route).toMatchObject({
      status: 400,
      body: { errors: [{ path: 'headers/idempotency-key' }] },
    });
  }
  for (const { path, method, operation } of operations) {
    if (method !== 'get' && !reads.includes(path)) continue;
    expect
      .soft(operation.parameters ?? [], `${method} ${path}`)
      .not.toContainEqual(expect.objectContaining({ name: 'idempotency-key' }));
  }
});
