import { newId } from '@signalbox/contracts/ids';
import { sessionKey } from '@signalbox/contracts/keys';
import { newApiKey } from '@signalbox/identity/api-keys';
import { createKey } from '@signalbox/identity/create-key';
import type { Scope } from '@signalbox/identity/scopes';
import { type Answer, call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type GatewayFixture, gatewayFixture } from '../test/gateway-fixture.ts';

let fixture: GatewayFixture;
let gateway: SpawnedService;
let other: SpawnedService;
let acme: string;
let globex: string;

beforeAll(async () => {
  fixture = await gatewayFixture();
  [gateway, other] = await Promise.all([fixture.start(), fixture.start()]);
  acme = await keyWith('acme', ['dlq:read', 'dlq:write']);
  globex = await keyWith('globex', ['dlq:read', 'dlq:write']);
});
afterAll(() => fixture?.close());
beforeEach(() => fixture.db.query('delete from messaging.dead_letters'));

async function keyWith(tenant: string, scopes: readonly Scope[]): Promise<string> {
  const { text } = newApiKey('dev');
  await fixture.db.transaction((tx) => createKey(tx, { tenant, text, name: 'operations', scopes }), {
    tenant,
  });
  return text;
}

interface Filed {
  readonly id: string;
  readonly session: string;
  readonly eventId: string;
}

let offsets = 0;
async function file(more: { tenant?: string; topic?: string; value?: Buffer | null } = {}): Promise<Filed> {
  const { tenant = 'acme', topic = 'conversation.inbound', value = Buffer.from('{"not json') } = more;
  const [id, session, eventId] = [newId(), newId(), newId()];
  offsets += 1;
  await fixture.db.query(
    `select messaging.dead_letter_put($1, $2, $3, 4, $4, now(), 'a.group', 'not_json', 'Unexpected end of what a person wrote', 1,
       $5, $6, $7, $8, '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01')`,
    [
      ...[tenant, id, topic, offsets, sessionKey(tenant === '_unknown' ? 'acme' : tenant, session), eventId],
      { event_type: 'message.posted', schema: 'conversation.inbound.v1', event_id: eventId },
      value,
    ],
  );
  return { id, session, eventId };
}

function posted(session: string, message: string) {
  return {
    ...{ session_id: session, turn_id: newId(), event_id: newId(), persona_id: 'assistant', message },
    accepted_at: new Date().toISOString(),
  };
}

const path = '/v1/dlq/conversation.inbound';
const replay = (
  id: string,
  body: object,
  options: { key?: string; idem?: string; at?: SpawnedService } = {},
) =>
  call(options.at ?? gateway, `${path}/${id}/replay`, {
    key: options.key ?? acme,
    body,
    headers: options.idem === undefined ? {} : { 'idempotency-key': options.idem },
  });
const remove = (url: string, headers: Record<string, string> = {}, key = acme): Promise<Answer> =>
  call(gateway, url, { method: 'DELETE', key, headers });
const ids = (answer: Answer) => (answer.body.dead_letters as { id: string }[]).map(({ id }) => id);
const outbox = (session: string) =>
  fixture.db.query<{ headers: Record<string, string>; value: Buffer }>(
    'select headers, value from messaging.outbox where key = $1 order by id',
    [`acme:${session}`],
  );

describe('GET /v1/dlq/{topic}', () => {
  it('lists the tenant’s, newest first, in pages, without contents', async () => {
    const filed = [await file(), await file(), await file()];
    await file({ tenant: 'globex' });
    await file({ tenant: '_unknown' });
    await file({ topic: 'tool.requests' });
    const first = await call(gateway, `${path}?limit=2`, { key: acme });
    expect(first.status).toBe(200);
    expect(ids(first)).toEqual([filed[2]?.id, filed[1]?.id]);
    expect(first.body.next_before).toBe(filed[1]?.id);
    const second = await call(gateway, `${path}?limit=2&before=${filed[1]?.id}`, { key: acme });
    expect(ids(second)).toEqual([filed[0]?.id]);
    expect(second.body.next_before).toBeNull();
    expect(first.body.dead_letters).toMatchObject([
      {
        ...{ topic: 'conversation.inbound', partition: 4, reason: 'not_json', attempts: 1, value_bytes: 10 },
        ...{ event_id: filed[2]?.eventId, key: `acme:${filed[2]?.session}`, replayed_at: null },
      },
      {},
    ]);
    expect(JSON.stringify(first.body)).not.toMatch(/not json|a person wrote/);
  });

  it('shows those that wait, those that were replayed, or all', async () => {
    const [waiting, done] = [await file(), await file()];
    await replay(done.id, { value: posted(done.session, 'x') });
    const list = async (query: string) => ids(await call(gateway, path + query, { key: acme }));
    expect(await list('')).toEqual([waiting.id]);
    expect(await list('?state=replayed')).toEqual([done.id]);
    expect(await list('?state=all')).toEqual([done.id, waiting.id]);
  });

  it('refuses a topic that is none, a cursor that is no id, and parameters it does not know', async () => {
    expect((await call(gateway, '/v1/dlq/nothing', { key: acme })).status).toBe(404);
    expect((await call(gateway, `${path}?before=x`, { key: acme })).status).toBe(400);
    const unknown = await call(gateway, `${path}?offset=3`, { key: acme });
    expect(unknown.body).toMatchObject({ error_code: 'VALIDATION_ERROR', status: 422 });
  });
});

describe('GET /v1/dlq/{topic}/{id}', () => {
  it('gives the bytes, as text where they are UTF-8', async () => {
    const { id } = await file();
    const binary = await file({ value: Buffer.from([0xff, 0x00]) });
    const tombstone = await file({ value: null });
    const text = await call(gateway, `${path}/${id}`, { key: acme });
    expect(text.body).toMatchObject({
      ...{ id, value_text: '{"not json', value_base64: Buffer.from('{"not json').toString('base64') },
      ...{ detail: 'Unexpected end of what a person wrote', headers: { event_type: 'message.posted' } },
    });
    expect(text.headers.get('cache-control')).toBe('no-store');
    expect((await call(gateway, `${path}/${binary.id}`, { key: acme })).body).toMatchObject({
      value_text: null,
      value_base64: '/wA=',
    });
    expect((await call(gateway, `${path}/${tombstone.id}`, { key: acme })).body).toMatchObject({
      value_text: null,
      value_base64: null,
    });
  });

  it('is the same 404 for another tenant’s, for nobody’s, under another topic, and for what is no id', async () => {
    const { id } = await file();
    const nobodys = await file({ tenant: '_unknown' });
    for (const [url, key] of [
      [`${path}/${id}`, globex],
      [`${path}/${nobodys.id}`, acme],
      [`/v1/dlq/tool.requests/${id}`, acme],
      [`${path}/${newId()}`, acme],
      [`${path}/nope`, acme],
    ] as const) {
      const { status, body } = await call(gateway, url, { key });
      expect(status).toBe(404);
      expect(body).toMatchObject({ error_code: 'NOT_FOUND', message: 'there is no such dead letter' });
    }
  });
});

describe('scopes', () => {
  it('are needed for each: dlq:read to look, dlq:write to change', async () => {
    const { id } = await file();
    const [none, read, write] = [
      fixture.keys.acme,
      await keyWith('acme', ['dlq:read']),
      await keyWith('acme', ['dlq:write']),
    ];
    const tries = async (key: string) => [
      (await call(gateway, path, { key })).status,
      (await call(gateway, `${path}/${id}`, { key })).status,
      (await replay(newId(), {}, { key })).status,
      (await remove(`${path}/${newId()}`, {}, key)).status,
      (await remove(`${path}?created_before=2020-01-01T00:00:00Z`, {}, key)).status,
    ];
    expect(await tries(none)).toEqual([403, 403, 403, 403, 403]);
    expect(await tries(read)).toEqual([200, 200, 403, 403, 403]);
    expect(await tries(write)).toEqual([403, 403, 404, 404, 200]);
    expect((await call(gateway, path)).status).toBe(401);
    const refused = await call(gateway, path, { key: none });
    expect(refused.body).toMatchObject({
      error_code: 'FORBIDDEN',
      message: expect.stringContaining('dlq:read'),
    });
  });
});

describe('POST /v1/dlq/{topic}/{id}/replay', () => {
  it('puts the record into the outbox of its topic as a new event, and says so', async () => {
    const { id, session, eventId } = await file();
    const { status, headers, body } = await replay(id, {});
    expect(status).toBe(202);
    expect(headers.get('location')).toBe(`/v1/session/${session}/events`);
    expect(body).toEqual({
      ...{ dead_letter_id: id, event_id: expect.any(String), replay_of: eventId },
      ...{ topic: 'conversation.inbound', session_id: session },
    });
    const [row] = await outbox(session);
    expect(row?.headers).toMatchObject({ event_id: body.event_id, replay_of: eventId, ce_source: 'gateway' });
    expect(row?.value.toString()).toBe('{"not json');
    const told = await gateway.log('dead_letter.replayed', (line) => line.dead_letter_id === id);
    expect(told).toMatchObject({ event_id: body.event_id, corrected: false });
    expect(told.by).toMatch(/^key:[0-9a-f-]{36}$/);
  });

  it('needs no body', async () => {
    const { id } = await file();
    const { status } = await call(gateway, `${path}/${id}/replay`, { key: acme, method: 'POST' });
    expect(status).toBe(202);
  });

  it('happens once: a second is 409 and names what the first became', async () => {
    const { id } = await file();
    const first = await replay(id, {});
    const second = await replay(id, {}, { at: other });
    expect(second.status).toBe(409);
    expect(second.body.message).toContain(first.body.event_id);
  });

  it('has one effect and one answer a key, whichever replica is asked, also at once', async () => {
    const { id, session } = await file();
    const idem = newId();
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, n) => replay(id, {}, { idem, at: n % 2 === 0 ? gateway : other })),
    );
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([202]));
    expect(new Set(answers.map(({ body }) => body.event_id)).size).toBe(1);
    expect(answers.filter(({ headers }) => headers.get('idempotency-replayed') === 'true')).toHaveLength(19);
    expect(await outbox(session)).toHaveLength(1);
    const reused = await file();
    expect((await replay(reused.id, {}, { idem })).body).toMatchObject({
      error_code: 'IDEMPOTENCY_KEY_REUSED',
    });
  });

  it('takes a corrected value, and refuses one with each place that does not fit', async () => {
    const { id, session } = await file();
    const value = posted(session, 'put right');
    const refused = await replay(id, { value: { ...value, message: '' } });
    expect(refused.body).toMatchObject({
      ...{ status: 422, error_code: 'VALIDATION_ERROR', errors: [{ path: '/value/message' }] },
    });
    const foreign = await replay(id, { value: { ...value, session_id: newId() } });
    expect(foreign.body).toMatchObject({ errors: [{ path: '/value/session_id' }] });
    const unknown = await replay(id, { value, event_type: 'nothing.known' });
    expect(unknown.body).toMatchObject({ errors: [{ path: '/event_type' }] });
    const closed = await replay(id, { value, key: 'acme:x' });
    expect(closed.body).toMatchObject({ errors: [{ path: '/key' }] });
    expect(await outbox(session)).toEqual([]);
    expect((await replay(id, { value })).status).toBe(202);
    expect(JSON.parse((await outbox(session))[0]?.value.toString() ?? '')).toEqual(value);
  });

  it('does not let a tenant write what services tell each other', async () => {
    const { id } = await file({ topic: 'tool.requests' });
    const { status, body } = await call(gateway, `/v1/dlq/tool.requests/${id}/replay`, {
      key: acme,
      body: { value: { tool: 'anything' } },
    });
    expect(status).toBe(403);
    expect(body).toMatchObject({ error_code: 'FORBIDDEN' });
    const asItWas = await call(gateway, `/v1/dlq/tool.requests/${id}/replay`, { key: acme, body: {} });
    expect(asItWas.status).toBe(202);
  });

  it('does not let a tenant put an old state of a compacted topic into force again', async () => {
    const { id } = await file({ topic: 'tool.catalog' });
    const { status } = await call(gateway, `/v1/dlq/tool.catalog/${id}/replay`, { key: acme, body: {} });
    expect(status).toBe(403);
    expect(ids(await call(gateway, '/v1/dlq/tool.catalog', { key: acme }))).toEqual([id]);
  });
});

describe('DELETE', () => {
  it('deletes one; again it is 404, and with its key the first answer', async () => {
    const { id } = await file();
    const idem = { 'idempotency-key': newId() };
    expect((await remove(`${path}/${id}`, {}, globex)).status).toBe(404);
    expect((await remove(`${path}/${id}`, idem)).status).toBe(204);
    const again = await remove(`${path}/${id}`, idem);
    expect(again.status).toBe(204);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect((await remove(`${path}/${id}`)).status).toBe(404);
    expect(await gateway.log('dead_letter.purged', (line) => line.dead_letter_id === id)).toMatchObject({
      count: 1,
    });
  });

  it('deletes those of a topic up to a time, which must be given', async () => {
    const [old, young] = [await file(), await file()];
    await file({ tenant: 'globex' });
    await fixture.db.query(
      `update messaging.dead_letters set created_at = now() - interval '2 days' where id = $1 or tenant = 'globex'`,
      [old.id],
    );
    expect((await remove(path)).status).toBe(422);
    expect((await remove(`${path}?created_before=yesterday`)).status).toBe(422);
    const yesterday = new Date(Date.now() - 86_400_000).toISOString();
    const { status, body } = await remove(`${path}?created_before=${yesterday}`);
    expect(status).toBe(200);
    expect(body).toEqual({ purged: 1, more: false });
    expect(ids(await call(gateway, path, { key: acme }))).toEqual([young.id]);
    expect(ids(await call(gateway, path, { key: globex }))).toHaveLength(1);
  });
});

describe('the document', () => {
  it('describes the routes, with their scopes and their Idempotency-Key', async () => {
    const { body } = await call<{ paths: Record<string, Record<string, { description: string }>> }>(
      gateway,
      '/openapi.json',
    );
    const operations = Object.entries(body.paths).filter(([url]) => url.startsWith('/v1/dlq'));
    expect(operations.map(([url, methods]) => `${url} ${Object.keys(methods).sort()}`)).toEqual([
      '/v1/dlq/{topic} delete,get',
      '/v1/dlq/{topic}/{id} delete,get',
      '/v1/dlq/{topic}/{id}/replay post',
    ]);
    for (const [, methods] of operations) {
      for (const { description } of Object.values(methods)) expect(description).toMatch(/dlq:(read|write)/);
    }
  });
});
