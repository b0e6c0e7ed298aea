import { newId } from '@signalbox/contracts/ids';
import { sqlState } from '@signalbox/postgres/classify-error';
import { describe, expect, test } from 'vitest';
import { first, holder, ownTestQueue, queueNames, row, runSql, schema, terms } from '../test/test-queue.ts';
import { queueCancelDownSql, queueCancelSql, queueSql } from './queue-migration.ts';
import { workUpkeepTasks } from './upkeep-tasks.ts';

const own = ownTestQueue();

describe('upkeep', () => {
  test('load counts what a process could take or will; not what runs, ended, is parked or stands behind that', async () => {
    const a = newId();
    const [parked, cancelled] = [row('parked'), row('cancelled')];
    const { claims } = await own.queue.enqueueAndClaim(own.database, [parked], 1, terms(a));
    await own.queue.park(own.database, first(claims).item, holder(a, first(claims)), 1);
    await own.queue.enqueue(own.database, [row('parked'), cancelled]);
    await own.queue.cancel(own.database, { tenant: 'acme', key: 'cancelled', cancel: {} });
    expect(await own.claim(a)).toEqual([]);
    expect(await own.queue.load()).toEqual([]);

    await own.queue.enqueueAndClaim(own.database, [row('runs')], 1, terms(a));
    await own.queue.enqueue(own.database, [row('runs')]);
    expect(await own.queue.load()).toEqual([{ tenant: 'acme', waiting: 1, oldestSeconds: 0 }]);

    // A minute for which it was parked is none for which a process was missing.
    await own.owner.query(`UPDATE ${schema}.items SET enqueued_at = enqueued_at - interval '1 minute'`);
    await own.queue.resumeAndClaim(own.database, [parked], 0, terms(a));
    const [resumed] = await own.queue.load();
    expect(resumed).toMatchObject({ waiting: 3 });
    expect(resumed?.oldestSeconds).toBeLessThan(10);
    await own.owner.query(
      `UPDATE ${schema}.lanes SET ready_at = ready_at - interval '1 minute' WHERE key = 'parked'`,
    );
    expect((await own.queue.load())[0]?.oldestSeconds).toBeGreaterThan(59);
    // Ended by its next holder: until then it waits for one.
    await own.queue.cancel(own.database, { tenant: 'acme', key: 'parked', ids: [parked.id], cancel: {} });
    expect(await own.queue.load()).toMatchObject([{ waiting: 3 }]);
  });

  test('load counts what waits; prune removes old rows and idle lanes; requeue gives a second chance', async () => {
    await own.queue.enqueue(own.database, [row('s1'), row('s1'), row('s2', 'globex')]);
    const a = newId();
    const claims = await own.claim(a);
    expect(await own.queue.load()).toMatchObject([{ tenant: 'acme', waiting: 1 }]);
    for (const each of claims) {
      await own.queue.finish(own.database, each.item, holder(a, each), 'failed', 'x');
    }
    expect(await own.queue.prune(60_000, 100)).toBe(0);
    const failed = first(claims);
    expect(await own.queue.requeue(own.database, failed.item)).toBe(true);
    expect(await own.queue.requeue(own.database, failed.item)).toBe(false);
    expect(await own.queue.prune(0, 100)).toBe(1);
    const lanes = await own.owner.query<{ key: string }>(`SELECT key FROM ${schema}.lanes`);
    expect(lanes.map((lane) => lane.key)).toEqual(['s1']);
    expect(first(await own.claim(a)).item).toMatchObject({ id: failed.item.id, attempt: 2, retries: 0 });
  });

  test('in pieces by name: old rows as many as were asked for, and whether there are more', async () => {
    await own.queue.enqueue(own.database, [row('s1'), row('s2'), row('s3')]);
    const a = newId();
    for (const each of await own.claim(a)) {
      await own.queue.finish(own.database, each.item, holder(a, each), 'done');
    }
    const { work_rows, stale_lanes } = workUpkeepTasks(own.queue, 60_000);
    expect(await work_rows({ limit: 2 })).toEqual({ done: 0, more: false });
    await own.owner.query(`UPDATE ${schema}.items SET finished_at = finished_at - interval '1 hour'`);
    expect(await work_rows({ limit: 2 })).toEqual({ done: 2, more: true });
    expect(await work_rows({ limit: 2 })).toEqual({ done: 1, more: false });
    expect(await own.owner.query(`SELECT key FROM ${schema}.lanes`)).toEqual([]);
    await own.queue.enqueue(own.database, [row('s1')]);
    await own.owner.query(`UPDATE ${schema}.lanes SET ready_at = NULL`);
    expect(await stale_lanes({ limit: 10 })).toEqual({ done: 1, more: false });
  });

  test('the sweep finds a lane that nothing marks as ready', async () => {
    await own.queue.enqueue(own.database, [row('s1')]);
    await own.owner.query(`UPDATE ${schema}.lanes SET ready_at = NULL`);
    expect(await own.claim(newId())).toEqual([]);
    expect(await own.queue.sweep()).toBe(1);
    expect(await own.queue.sweep()).toBe(0);
    expect(await own.claim(newId())).toHaveLength(1);
  });
});

test('the migration that brought cancels can be taken back, and leaves the functions as they were', async () => {
  const functions = () =>
    own.owner.query<{ name: string; source: string }>(
      `SELECT p.oid::regprocedure::text AS name, pg_get_functiondef(p.oid) AS source FROM pg_proc p
       WHERE p.pronamespace = $1::regnamespace ORDER BY 1`,
      [schema],
    );
  const after = await functions();
  await runSql(own.owner, queueCancelDownSql(queueNames));
  const before = await functions();
  await runSql(own.owner, `DROP SCHEMA ${schema} CASCADE`);
  await runSql(own.owner, queueSql(queueNames));
  expect(await functions()).toEqual(before);
  await runSql(own.owner, queueCancelSql(queueNames));
  expect(await functions()).toEqual(after);
});

describe('rights', () => {
  test('the service reaches the tables through the functions only', async () => {
    await own.queue.enqueue(own.database, [row('s1')]);
    for (const statement of [
      `SELECT * FROM ${schema}.lanes`,
      `SELECT * FROM ${schema}.items`,
      `UPDATE ${schema}.lanes SET owner = NULL`,
      `DELETE FROM ${schema}.items`,
      `INSERT INTO ${schema}.lanes (tenant, key) VALUES ('acme', 'x')`,
      `TRUNCATE ${schema}.items`,
      `SELECT * FROM ${schema}.work_take('{acme}', '{s1}', gen_random_uuid(), 1000, '{1}')`,
      `SET ROLE signalbox_queue`,
    ]) {
      const error = await own.database.query(statement).catch((thrown: unknown) => thrown);
      expect(sqlState(error), statement).toBe('42501');
    }
  });

  test('every definer function pins its search_path and belongs to signalbox_queue', async () => {
    const found = await own.owner.query<{ name: string; owner: string; config: string[] }>(
      `SELECT p.proname AS name, p.proowner::regrole::text AS owner, p.proconfig AS config FROM pg_proc p
       WHERE p.pronamespace = $1::regnamespace AND p.prosecdef`,
      [schema],
    );
    expect(found.length).toBeGreaterThan(12);
    for (const { name, owner, config } of found) {
      expect(owner, name).toBe('signalbox_queue');
      expect(config, name).toContain('search_path=pg_catalog, pg_temp');
    }
  });
});
