import { newId } from '@signalbox/contracts/ids';
import { memoryIdentity } from '@signalbox/contracts/memory-ids';
import { memoryWritesSchema } from '@signalbox/contracts/memory-writes';
import { validateValue } from '@signalbox/contracts/validate';
import { readAll } from '@signalbox/messaging/read-topic';
import { silentLog as log } from '@signalbox/telemetry/silent';
import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type GatewayFixture, gatewayFixture, post } from './gateway-fixture.ts';

/** Memories written and forgotten by hand, up to their records in memory.writes. */

let fixture: GatewayFixture;
let gateway: SpawnedService;
let acme: string;
let globex: string;

beforeAll(async () => {
  fixture = await gatewayFixture();
  gateway = await fixture.start();
  ({ acme, globex } = fixture.keys);
});
afterAll(() => fixture?.close());

const write = (body: Record<string, unknown>, headers: Record<string, string> = {}, key = acme) =>
  call<{ memory_id: string; event_id: string; errors?: { path: string }[] }>(gateway, '/v1/memory', {
    key,
    body,
    headers,
  });

async function records() {
  const all = await readAll({ settings: fixture.settings, topic: 'memory.writes', log });
  return all.map(({ key, headers, value }) => ({
    key,
    eventId: headers.event_id ?? '',
    type: headers.event_type ?? '',
    value: JSON.parse(value?.toString('utf8') ?? 'null') as Record<string, unknown>,
  }));
}

async function recordOf(eventId: string) {
  const all = await waitFor(records, (found) => found.some((each) => each.eventId === eventId), {
    label: 'the record',
    intervalMs: 200,
  });
  return all.find((each) => each.eventId === eventId);
}

describe('a memory written by hand', () => {
  it('becomes a record under its own id, which what it says gives it', async () => {
    const body = {
      text: 'Ada prefers French 🇫🇷.',
      namespace: 'people',
      occurred_at: '2026-03-01T12:00:00+02:00',
      expires_at: '2999-01-01T00:00:00Z',
      metadata: { source: 'crm' },
    };
    const { status, body: reply } = await write(body);
    expect(status).toBe(202);
    const occurredAt = '2026-03-01T10:00:00.000Z';
    const identity = memoryIdentity({
      tenant: 'acme',
      namespace: 'people',
      sessionId: undefined,
      role: 'note',
      occurredAt,
      text: body.text,
    });
    expect(reply.memory_id).toBe(identity.memoryId);
    const record = await recordOf(reply.event_id);
    expect(record).toMatchObject({ key: `acme:${identity.memoryId}`, type: 'memory.write_requested' });
    expect(record?.value).toEqual({
      memories: [
        {
          memory_id: identity.memoryId,
          idempotency_key: identity.idempotencyKey,
          namespace: 'people',
          role: 'note',
          text: body.text,
          occurred_at: occurredAt,
          expires_at: '2999-01-01T00:00:00.000Z',
          metadata: { source: 'crm' },
        },
      ],
    });
    expect(
      validateValue('memory.writes', 'memory.write_requested', memoryWritesSchema, record?.value),
    ).toMatchObject({
      ok: true,
    });
    expect((await write(body)).body.memory_id).toBe(identity.memoryId);
  });

  it('goes by its session where it names one, and only into a session of the tenant', async () => {
    const { session_id: sessionId } = (await post(gateway, acme, { message: 'hello' })).body;
    const mine = await write({ text: 'said here', session_id: sessionId, role: 'user' });
    expect(mine.status).toBe(202);
    expect(await recordOf(mine.body.event_id)).toMatchObject({
      key: `acme:${sessionId}`,
      value: { memories: [{ session_id: sessionId, role: 'user' }] },
    });
    const foreign = await write({ text: 'said here', session_id: sessionId }, {}, globex);
    expect(foreign).toMatchObject({ status: 404, body: { error_code: 'NOT_FOUND' } });
    expect((await write({ text: 'x', session_id: newId() })).status).toBe(404);
    expect((await write({ text: 'x', session_id: 'mine' })).status).toBe(404);
  });

  it('is another one with each request that names no time, and one with an Idempotency-Key', async () => {
    const body = { text: 'the same again' };
    const headers = { 'idempotency-key': newId() };
    const [first, second] = [await write(body, headers), await write(body, headers)];
    expect(second.body).toEqual(first.body);
    expect(second.headers.get('idempotency-replayed')).toBe('true');
    const loose = await write(body);
    expect(loose.body.memory_id).not.toBe(first.body.memory_id);
    expect(await write({ text: 'other' }, headers)).toMatchObject({ status: 422 });
    await recordOf(loose.body.event_id);
    const mine = (await records()).filter(({ eventId }) => eventId === first.body.event_id);
    expect(new Set(mine.map(({ eventId }) => eventId)).size).toBe(1);
  });

  it('named by hand is the next version of that memory and no repeat of another', async () => {
    const body = { text: 'version two', occurred_at: '2026-03-01T10:00:00Z' };
    const first = await write(body);
    const id = newId();
    const named = await write({ ...body, memory_id: id });
    expect(named.body.memory_id).toBe(id);
    const keyOf = async (eventId: string) =>
      JSON.stringify((await recordOf(eventId))?.value.memories).match(/"idempotency_key":"(\w+)"/)?.[1];
    expect(await keyOf(named.body.event_id)).not.toBe(await keyOf(first.body.event_id));
  });

  it('is refused at the place that does not fit', async () => {
    const places: [Record<string, unknown>, string][] = [
      [{}, '/text'],
      [{ text: '' }, '/text'],
      [{ text: 7 }, '/text'],
      [{ text: 'x'.repeat(32_769) }, '/text'],
      [{ text: '😀'.repeat(16_385) }, '/text'],
      [{ text: 'x', extra: 1 }, '/extra'],
      [{ text: 'x', namespace: 'No Spaces' }, '/namespace'],
      [{ text: 'x', role: 'boss' }, '/role'],
      [{ text: 'x', memory_id: 'M1' }, '/memory_id'],
      [{ text: 'x', occurred_at: 'yesterday' }, '/occurred_at'],
      [{ text: 'x', occurred_at: '2016-12-31T23:59:60Z' }, '/occurred_at'],
      [{ text: 'x', occurred_at: '0000-01-01T00:00:00Z' }, '/occurred_at'],
      [{ text: 'x', expires_at: '2020-01-01T00:00:00Z' }, '/expires_at'],
      [{ text: 'x', metadata: [] }, '/metadata'],
    ];
    for (const [body, path] of places) {
      const answer = await write(body);
      expect.soft(answer.status, JSON.stringify(body).slice(0, 80)).toBe(422);
      expect.soft(answer.body.errors?.map((error) => error.path)).toContain(path);
    }
    const raw = async (text: string) => (await call(gateway, '/v1/memory', { key: acme, raw: text })).status;
    expect(await raw('{"text":"a\\u0000b"}')).toBe(422);
    expect(await raw('{"text":"a\\ud800b"}')).toBe(422);
    expect(await raw(`{"text":"x","metadata":{"a":${'['.repeat(64)}${']'.repeat(64)}}}`)).toBe(422);
    expect(await raw('{"text":"x","text":"y"}')).toBe(400);
    expect(await raw('{"text":"x"')).toBe(400);
    expect((await write({ text: 'x', metadata: { a: 'x'.repeat(33_000) } })).status).toBe(413);
    expect((await call(gateway, '/v1/memory', { body: { text: 'x' } })).status).toBe(401);
  });
});

describe('a memory to forget', () => {
  const forget = (id: string, headers: Record<string, string> = {}) =>
    call<{ memory_id: string; event_id: string }>(gateway, `/v1/memory/${id}`, {
      key: acme,
      method: 'DELETE',
      headers,
    });

  it('is kept as a wish whether it is there or not, once for a key', async () => {
    const id = newId();
    const headers = { 'idempotency-key': newId() };
    const first = await forget(id, headers);
    expect(first).toMatchObject({ status: 202, body: { memory_id: id } });
    expect((await forget(id, headers)).body).toEqual(first.body);
    const record = await recordOf(first.body.event_id);
    expect(record).toMatchObject({
      key: `acme:${id}`,
      type: 'memory.delete_requested',
      value: { memory_id: id },
    });
    // The same key for another memory is another request.
    expect((await forget(newId(), headers)).status).toBe(422);
    expect((await forget('nothing')).status).toBe(404);
  });
});

it('keeps memories, wishes and exports while Kafka is away, and answers questions 503', async () => {
  const alone = await fixture.start({ KAFKA_BOOTSTRAP_SERVERS: '127.0.0.1:9' });
  const ask = (path: string, body?: object, method?: string) =>
    call(alone, path, {
      key: acme,
      ...(body === undefined ? {} : { body }),
      ...(method === undefined ? {} : { method }),
    });
  const id = newId();
  const [kept, forgotten, wanted, ...asked] = await Promise.all([
    ask('/v1/memory', { text: 'kept without a broker' }),
    ask(`/v1/memory/${id}`, undefined, 'DELETE'),
    ask('/v1/memory/exports', {}),
    ask('/v1/memory/search', { query: 'x' }),
    ask('/v1/memory/export'),
    ask('/v1/jobs'),
    ask(`/v1/jobs/${id}`),
  ]);
  for (const { status } of [kept, forgotten, wanted]) expect(status).toBe(202);
  for (const answer of asked) {
    expect(answer).toMatchObject({ status: 503, body: { error_code: 'KAFKA_UNAVAILABLE' } });
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
  }
  const rows = await fixture.db.query<{ key: string }>('select key from messaging.outbox');
  expect(rows.map(({ key }) => key)).toEqual(
    expect.arrayContaining([`acme:${kept.body.memory_id}`, `acme:${id}`, `acme:${wanted.body.job_id}`]),
  );
});
