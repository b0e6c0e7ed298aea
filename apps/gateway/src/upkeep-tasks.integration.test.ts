import { streamStart } from '@signalbox/api/stream-id';
import { newId } from '@signalbox/contracts/ids';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { openRedis, type Redis } from '@signalbox/redis/redis';
import { silentLog as log, silentMetrics as metrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { testInfra } from '@signalbox/testkit/infra';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { findPlaces } from './event-store.ts';
import { hasSession, pageEvents } from './session-store.ts';
import { streamKeys } from './stream-keys.ts';
import { upkeepTasks } from './upkeep-tasks.ts';

/** Upkeep in the real database, as the service's role. */

let test: TestDatabase;
let database: Database;
let redis: Redis;
const keys = streamKeys(`test-${newId().slice(-12)}:`);
const settings = { idempotencyKeepHours: 24, sessionEventsKeepDays: 30, sessionExpireDays: 10 };
const never = new AbortController().signal;

beforeAll(async () => {
  test = await createTestDatabase();
  database = openDatabase({
    url: test.url,
    poolSize: 4,
    maxOverflow: 0,
    poolTimeoutMs: 5_000,
    poolRecycleMs: 600_000,
    applicationName: 'upkeep-test',
    log,
    metrics,
  });
  redis = openRedis({ url: testInfra().redisUrl, log, metrics });
});
afterAll(async () => {
  await Promise.all([database?.close(), redis?.close()]);
  await test?.drop();
});
beforeEach(() =>
  test.query(
    `truncate gateway.sessions, gateway.messages, gateway.session_events, gateway.idempotency_keys,
       gateway.notifications, gateway.expiring_sessions`,
  ),
);

const tasksWith = (more: { settleSeconds?: number; expireDays?: number } = {}) =>
  upkeepTasks({
    settings: { ...settings, sessionExpireDays: more.expireDays ?? settings.sessionExpireDays },
    database,
    redis,
    keys,
    log,
    settleSeconds: more.settleSeconds ?? 0,
  });

function run(name: string, limit = 100, resume?: Record<string, unknown>, tasks = tasksWith()) {
  const task = tasks[name];
  if (task === undefined) throw new Error(`no task ${name}`);
  return task({ limit, resume, signal: never });
}

interface SessionAge {
  readonly tenant?: string;
  readonly madeDays?: number;
  readonly usedDays?: number;
  readonly ended?: boolean;
  readonly events?: number;
}

async function session(age: SessionAge = {}): Promise<string> {
  const { tenant = 'acme', madeDays = 30, usedDays = 20, ended = true, events = 3 } = age;
  const id = newId();
  await test.query(
    `insert into gateway.sessions (tenant, session_id, persona_id, created_at)
       values ($1, $2, 'assistant', now() - make_interval(days => $3))`,
    [tenant, id, madeDays],
  );
  await test.query(
    `insert into gateway.messages (tenant, session_id, turn_id, event_id, body, accepted_at, ended_at)
       select $1, $2, gen_random_uuid(), gen_random_uuid(), '{}', t, case when $4 then t end
         from (select now() - make_interval(days => $3) as t) at`,
    [tenant, id, usedDays, ended],
  );
  await test.query(
    `insert into gateway.session_events (tenant, session_id, epoch, position, event_id, event_type, data, stored_at)
       select $1, $2, 1, n, gen_random_uuid(), 'turn.started', '{}', now() - make_interval(days => $3)
         from generate_series(1, $4::int) n`,
    [tenant, id, usedDays, events],
  );
  return id;
}

const count = async (table: string) =>
  Number((await test.query<{ n: string }>(`select count(*) as n from gateway.${table}`))[0]?.n);
const known = (id: string, tenant = 'acme') =>
  database.transaction((tx) => hasSession(tx, { tenant, sessionId: id }), { tenant });

describe('idempotency keys', () => {
  it('go by pieces, the young stay', async () => {
    await test.query(
      `insert into gateway.idempotency_keys (tenant, route, key, body_hash, event_id, answer, created_at)
         select case n % 2 when 0 then 'acme' else 'globex' end, 'POST /v1', n::text, '', gen_random_uuid(), '{}',
                now() - make_interval(hours => case when n <= 5 then 25 else 23 end)
           from generate_series(1, 8) n`,
    );
    expect(await run('idempotency_keys', 3)).toEqual({ done: 3, more: true });
    expect(await run('idempotency_keys', 3)).toEqual({ done: 2, more: false });
    expect(await count('idempotency_keys')).toBe(3);
  });
});

describe('session events', () => {
  it('past their time go by pieces, and their session knows what it lost', async () => {
    const old = await session({ usedDays: 31, events: 5 });
    await session({ usedDays: 1, events: 2 });
    expect(await run('session_events', 3)).toEqual({ done: 3, more: true });
    expect(await run('session_events', 3)).toEqual({ done: 2, more: false });
    expect(await count('session_events')).toBe(2);
    const [row] = await test.query<{ pruned_position: string }>(
      'select pruned_position from gateway.sessions where session_id = $1',
      [old],
    );
    expect(row?.pruned_position).toBe('5');
  });
});

describe('notifications', () => {
  it('that have expired go, and cleared ones once their record cannot come again', async () => {
    const rows: [string, string | null, string][] = [
      ["now() - interval '1 minute'", null, 'now()'],
      ["now() + interval '1 day'", null, "now() - interval '30 days'"],
      ["now() + interval '1 day'", 'now()', "now() - interval '7 days'"],
      ["now() + interval '1 day'", 'now()', "now() - interval '9 days'"],
    ];
    for (const [expires, cleared, stored] of rows)
      await test.query(
        `insert into gateway.notifications (tenant, notification_id, kind, level, title, created_at, expires_at,
             cleared_at, stored_at)
           values ('acme', gen_random_uuid(), 'k', 'info', 't', now(), ${expires}, ${cleared}, ${stored})`,
      );
    expect(await run('notifications', 1)).toEqual({ done: 1, more: true });
    expect(await run('notifications', 10)).toEqual({ done: 1, more: false });
    expect(await count('notifications')).toBe(2);
  });
});

describe('sessions that nobody uses', () => {
  it('are out of sight at once, then gone with messages, events and stream', async () => {
    const idle = [await session(), await session({ tenant: 'globex' })];
    const kept = [
      await session({ usedDays: 5 }),
      await session({ ended: false }),
      await session({ madeDays: 3, usedDays: 3 }),
    ];
    const [first = ''] = idle;
    const streams = [keys.entries('acme', first), keys.state('acme', first)];
    for (const key of streams) await redis.run((client) => client.set(key, 'x'));

    expect(await run('sessions')).toMatchObject({ done: 0, more: false, detail: { taken_out_of_sight: 2 } });
    expect(await known(first)).toBe(false);
    expect(await known(idle[1] ?? '', 'globex')).toBe(false);
    expect(await findPlaces(database, [{ tenant: 'acme', sessionId: first, wantStart: true }])).toEqual([
      'missing',
    ]);
    const page = await pageEvents(database, { tenant: 'acme', sessionId: first }, streamStart, 10);
    expect(page).toBeUndefined();
    expect(await count('messages')).toBe(5);
    expect(await run('sessions')).toMatchObject({ done: 2, more: false, detail: { rows: 8 } });
    expect([await count('messages'), await count('session_events')]).toEqual([3, 9]);
    expect(await count('expiring_sessions')).toBe(0);
    expect(await redis.run((client) => client.exists(...streams))).toBe(0);
    for (const id of kept) expect(await known(id)).toBe(true);
    expect(await run('sessions')).toMatchObject({ done: 0, detail: { looked_at: 3, taken_out_of_sight: 0 } });
  });

  it('are not touched while SESSION_EXPIRE_DAYS is 0', async () => {
    await session({ madeDays: 3_000, usedDays: 3_000 });
    const outcome = await run('sessions', 100, undefined, tasksWith({ expireDays: 0 }));
    expect(outcome).toMatchObject({ done: 0, more: false });
    expect([await count('sessions'), await count('expiring_sessions')]).toEqual([1, 0]);
  });

  it('come back when a message of theirs was on its way as they were taken out of sight', async () => {
    const id = await session();
    await run('sessions', 100, undefined, tasksWith({ settleSeconds: 60 }));
    expect(await known(id)).toBe(false);
    // A statement that had read the session's row before.
    await test.query(
      `insert into gateway.messages (tenant, session_id, turn_id, event_id, body)
         values ('acme', $1, gen_random_uuid(), gen_random_uuid(), '{}')`,
      [id],
    );
    const early = await run('sessions', 100, undefined, tasksWith({ settleSeconds: 60 }));
    expect(early).toMatchObject({ done: 0, detail: { back: 0 } });
    expect(await run('sessions')).toMatchObject({ done: 0, detail: { back: 1, rows: 0 } });
    expect(await known(id)).toBe(true);
    expect([await count('messages'), await count('session_events')]).toEqual([2, 3]);
  });

  it('go in pieces that are bounded by rows, wherever the asking stops', async () => {
    for (let i = 0; i < 5; i += 1) await session({ events: 10 });
    let resume: Record<string, unknown> | undefined;
    let done = 0;
    let before = 60;
    for (let i = 0; i < 100; i += 1) {
      const outcome = await run('sessions', 4, resume);
      const left = (await count('messages')) + (await count('session_events')) + (await count('sessions'));
      const hidden = await count('expiring_sessions');
      expect(before - (left + hidden)).toBeLessThanOrEqual(4);
      before = left + hidden;
      done += outcome.done;
      resume = outcome.resume;
      if (!outcome.more && hidden === 0) break;
    }
    expect(done).toBe(5);
    expect(before).toBe(0);
  });

  it('are gone once when two replicas are at it together', async () => {
    for (let i = 0; i < 20; i += 1) await session();
    await Promise.all([run('sessions'), run('sessions'), run('sessions')]);
    const outcomes = await Promise.all([run('sessions'), run('sessions'), run('sessions')]);
    expect(outcomes.reduce((sum, { done }) => sum + done, 0)).toBeLessThanOrEqual(20);
    expect([await count('sessions'), await count('messages'), await count('expiring_sessions')]).toEqual([
      0, 0, 0,
    ]);
  });
});
