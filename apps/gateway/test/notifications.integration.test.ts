import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import { uiNotificationsSchema } from '@signalbox/contracts/ui-notifications';
import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { type GatewayFixture, gatewayFixture } from './gateway-fixture.ts';

/** ui.notifications from the record to the list, read and cleared. */

interface Shown {
  readonly notification_id: string;
  readonly title: string;
  readonly read_at: string | null;
}
interface Page {
  readonly notifications: Shown[];
  readonly next_before: string | null;
}

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
beforeEach(() => fixture.db.query('delete from gateway.notifications'));

async function tell(more: Record<string, unknown> = {}, tenant = 'acme', eventId = newId()): Promise<string> {
  const id = typeof more.notification_id === 'string' ? more.notification_id : newId();
  await fixture.send({
    topic: 'ui.notifications',
    key: idKey(tenant, id),
    tenant,
    eventType: 'notification.posted',
    schema: uiNotificationsSchema,
    eventId,
    value: {
      notification_id: id,
      kind: 'task.completed',
      level: 'info',
      title: 'A task is done',
      body: 'It came to 42.',
      data: { task_id: id, n: 1 },
      created_at: new Date().toISOString(),
      expires_at: new Date(Date.now() + 3_600_000).toISOString(),
      ...more,
    },
  });
  return id;
}

const list = async (key = acme, query = '') =>
  (await call<Page>(gateway, `/v1/notifications${query}`, { key })).body;

const shown = (ids: readonly string[], key = acme) =>
  waitFor(
    () => list(key),
    ({ notifications }) => ids.every((id) => notifications.some((each) => each.notification_id === id)),
    { label: 'notifications in the list' },
  );

/** A record behind all others of its partition: when it is there, they were taken in. */
async function settled(): Promise<void> {
  const marks = await Promise.all(Array.from({ length: 12 }, () => tell({ title: 'mark' }, 'globex')));
  await shown(marks, globex);
}

it('lists what was told, newest first, page by page', async () => {
  const ids: string[] = [];
  for (let i = 0; i < 5; i += 1) {
    const id = await tell({ title: `number ${i}` });
    await shown([id]);
    ids.unshift(id);
  }
  const first = await list(acme, '?limit=3');
  expect(first.notifications.map(({ notification_id }) => notification_id)).toEqual(ids.slice(0, 3));
  expect(first.notifications[0]).toMatchObject({
    kind: 'task.completed',
    level: 'info',
    title: 'number 4',
    body: 'It came to 42.',
    data: { task_id: ids[0], n: 1 },
    read_at: null,
  });
  const second = await list(acme, `?limit=3&before=${first.next_before}`);
  expect(second.notifications.map(({ notification_id }) => notification_id)).toEqual(ids.slice(3));
  expect(second.next_before).toBeNull();
  expect((await call(gateway, '/v1/notifications?before=x', { key: acme })).status).toBe(400);
});

it('marks one as read once, and lists the unread alone', async () => {
  const [one, two] = [await tell(), await tell()];
  await shown([one, two]);
  const headers = { 'idempotency-key': newId() };
  const path = `/v1/notifications/${one}/read`;
  const read = await call(gateway, path, { key: acme, method: 'POST', headers });
  expect(read).toMatchObject({ status: 200, body: { notification_id: one } });
  const again = await call(gateway, path, { key: acme, method: 'POST', headers });
  expect(again.body).toEqual(read.body);
  expect(again.headers.get('idempotency-replayed')).toBe('true');
  const later = await call(gateway, path, { key: acme, method: 'POST' });
  expect(later.body).toEqual(read.body);
  const unread = await list(acme, '?unread=true');
  expect(unread.notifications.map(({ notification_id }) => notification_id)).toEqual([two]);
});

it('does not bring a cleared one back when its record comes again', async () => {
  const [id, kept] = [await tell(), await tell()];
  await shown([id, kept]);
  const headers = { 'idempotency-key': newId() };
  const clear = () => call(gateway, `/v1/notifications/${id}`, { key: acme, method: 'DELETE', headers });
  expect((await clear()).status).toBe(204);
  const replayed = await clear();
  expect(replayed.status).toBe(204);
  expect(replayed.headers.get('idempotency-replayed')).toBe('true');
  expect((await call(gateway, `/v1/notifications/${id}`, { key: acme, method: 'DELETE' })).status).toBe(404);
  expect((await call(gateway, `/v1/notifications/${id}/read`, { key: acme, method: 'POST' })).status).toBe(
    404,
  );
  await tell({ notification_id: id, title: 'again' });
  await settled();
  expect((await list()).notifications.map(({ notification_id }) => notification_id)).toEqual([kept]);
  const [row] = await fixture.db.query<{ title: string; body: string | null }>(
    'select title, body from gateway.notifications where notification_id = $1',
    [id],
  );
  expect(row).toEqual({ title: '', body: null });
});

it('clears all of the tenant, and of no other', async () => {
  const mine = [await tell(), await tell(), await tell()];
  const theirs = await tell({}, 'globex');
  await Promise.all([shown(mine), shown([theirs], globex)]);
  const headers = { 'idempotency-key': newId() };
  const clear = () => call(gateway, '/v1/notifications', { key: acme, method: 'DELETE', headers });
  expect(await clear()).toMatchObject({ status: 200, body: { cleared: 3, more: false } });
  expect(await clear()).toMatchObject({ status: 200, body: { cleared: 3, more: false } });
  expect((await list()).notifications).toEqual([]);
  expect((await list(globex)).notifications).toHaveLength(1);
});

it('shows no tenant what is told to another', async () => {
  const theirs = await tell({}, 'globex');
  await shown([theirs], globex);
  expect((await list()).notifications).toEqual([]);
  for (const [method, path] of [
    ['POST', `/v1/notifications/${theirs}/read`],
    ['DELETE', `/v1/notifications/${theirs}`],
    ['DELETE', '/v1/notifications/nothing'],
  ] as const) {
    expect.soft((await call(gateway, path, { key: acme, method })).status, path).toBe(404);
  }
  expect((await list(globex)).notifications).toMatchObject([{ read_at: null }]);
});

it('shows none that has expired, and stores none that comes after its time', async () => {
  const late = await tell({ expires_at: new Date(Date.now() - 1_000).toISOString() });
  const id = await tell();
  await shown([id]);
  await settled();
  await fixture.db.query('update gateway.notifications set expires_at = now() where notification_id = $1', [
    id,
  ]);
  expect((await list()).notifications).toEqual([]);
  const rows = await fixture.db.query<{ notification_id: string }>(
    `select notification_id from gateway.notifications where tenant = 'acme'`,
  );
  expect(rows.map(({ notification_id }) => notification_id)).toEqual([id]);
  expect(rows).not.toContainEqual({ notification_id: late });
});

it('puts a record aside that cannot be stored, and takes the ones around it', async () => {
  const before = await tell();
  await tell({ created_at: '2026-13-45T99:00:00Z' });
  await tell({ title: 'a NUL \u0000 within' });
  const after = await tell();
  await shown([before, after]);
  await gateway.log('consumer.dead_letter', ({ topic }) => topic === 'ui.notifications');
  expect((await list()).notifications).toHaveLength(2);
});
