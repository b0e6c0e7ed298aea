import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { sleep, waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { open as openWith } from '../test/open.ts';
import { type Database, type DatabaseOptions, openDatabase } from './database.ts';
import { expectedMigrations } from './schema-version.ts';

let own: TestDatabase;
const opened: Database[] = [];
function open(url = own.url, more: Partial<DatabaseOptions> = {}): Database {
  const database = openWith(url, more);
  opened.push(database);
  return database;
}

beforeAll(async () => {
  own = await createTestDatabase();
  await own.query(`DO $do$ BEGIN
    CREATE SCHEMA probe;
    GRANT USAGE ON SCHEMA probe TO signalbox_gateway;
    CREATE TABLE probe.notes (tenant text NOT NULL, id int NOT NULL, body text, PRIMARY KEY (tenant, id));
    PERFORM app.protect_tenant_table('probe.notes', 'SELECT, INSERT, UPDATE, DELETE', 'signalbox_gateway');
  END; $do$`);
});
afterEach(() => Promise.all(opened.splice(0).map((each) => each.close(200))));
afterAll(() => own.drop());

const connections = async (name: string) =>
  (
    await own.query<{ pid: number }>(
      'SELECT pid FROM pg_stat_activity WHERE datname = $1 AND application_name = $2 ORDER BY pid',
      [own.name, name],
    )
  ).map((each) => each.pid);
const caught = async (act: Promise<unknown>) =>
  act.then(
    () => undefined,
    (error: unknown) => error,
  );

describe('transactions', () => {
  test('a tenant sees and writes its own rows only, and without a tenant there are none', async () => {
    const database = open();
    const insert = 'INSERT INTO probe.notes (tenant, id, body) VALUES ($1, $2, $3)';
    await database.transaction((tx) => tx.query(insert, ['acme', 1, 'a']), { tenant: 'acme' });
    await database.transaction((tx) => tx.query(insert, ['globex', 1, 'g']), { tenant: 'globex' });
    const seen = await database.transaction((tx) => tx.query('SELECT tenant FROM probe.notes'), {
      tenant: 'acme',
    });
    expect(seen).toEqual([{ tenant: 'acme' }]);
    // The same connection, afterwards and outside: the tenant went with its transaction.
    expect(await database.query('SELECT * FROM probe.notes')).toEqual([]);
    const foreign = await caught(
      database.transaction((tx) => tx.query(insert, ['globex', 2, 'x']), { tenant: 'acme' }),
    );
    expect(foreign).toMatchObject({ code: 'INTERNAL_ERROR', details: { sqlState: '42501' } });
    const touched = await database.transaction(
      (tx) => tx.query(`UPDATE probe.notes SET body = 'mine' WHERE tenant = 'globex' RETURNING 1`),
      { tenant: 'acme' },
    );
    expect(touched).toEqual([]);
    // Forced on the table's owner role too, were it not let pass by name.
    const [flags] = await own.query(
      `SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'probe.notes'::regclass`,
    );
    expect(flags).toEqual({ relrowsecurity: true, relforcerowsecurity: true });
  });

  test('what is no tenant id never reaches the statement', async () => {
    const database = open();
    const error = await caught(
      database.transaction((tx) => tx.query('SELECT 1'), { tenant: "a'; DROP SCHEMA probe; --" }),
    );
    expect(error).toMatchObject({ code: 'INTERNAL_ERROR' });
  });

  test('a throw rolls back; calls after the commit or the rollback run once and cannot break it', async () => {
    const database = open();
    const calls: string[] = [];
    const error = await caught(
      database.transaction(
        async (tx) => {
          tx.afterCommit(() => calls.push('commit'));
          tx.afterRollback((outcome) => calls.push('rollback', outcome));
          await tx.query(`INSERT INTO probe.notes VALUES ('acme', 50, 'x')`);
          throw new Error('mine');
        },
        { tenant: 'acme' },
      ),
    );
    expect(error).toMatchObject({ message: 'mine' });
    expect(calls).toEqual(['rollback', 'none']);
    expect(await own.query('SELECT 1 FROM probe.notes WHERE id = 50')).toEqual([]);

    const value = await database.transaction(async (tx) => {
      tx.afterCommit(() => {
        throw new Error('listener');
      });
      tx.afterCommit(() => calls.push('second'));
      return 5;
    });
    expect(value).toBe(5);
    expect(calls).toEqual(['rollback', 'none', 'second']);
  });

  test('an error caught inside does not pass for success, and the transaction is over afterwards', async () => {
    const database = open();
    let late: (() => Promise<unknown>) | undefined;
    const error = await caught(
      database.transaction(
        async (tx) => {
          late = () => tx.query('SELECT 1');
          await tx.query(`INSERT INTO probe.notes VALUES ('acme', 60, 'x')`);
          await caught(tx.query('SELECT 1 / 0'));
        },
        { tenant: 'acme' },
      ),
    );
    expect(error).toMatchObject({ code: 'INTERNAL_ERROR' });
    expect(await own.query('SELECT 1 FROM probe.notes WHERE id = 60')).toEqual([]);
    await expect(late?.()).rejects.toMatchObject({ code: 'INTERNAL_ERROR' });
    expect(await database.query('SELECT 1 AS one')).toEqual([{ one: 1 }]);
  });

  test('deadlocks and time limits are the caller’s to repeat', async () => {
    const database = open();
    const insert = `INSERT INTO probe.notes VALUES ('acme', 70, 'x'), ('acme', 71, 'x')`;
    await database.transaction((tx) => tx.query(insert), { tenant: 'acme' });
    const update = 'UPDATE probe.notes SET body = body WHERE id = $1';
    let both = 0;
    const cross = (first: number, second: number) =>
      database.transaction(
        async (tx) => {
          await tx.query(update, [first]);
          both += 1;
          await waitFor(
            () => both,
            (count) => count === 2,
          );
          await tx.query(update, [second]);
        },
        { tenant: 'acme' },
      );
    const results = await Promise.allSettled([cross(70, 71), cross(71, 70)]);
    const [lost] = results.filter((each) => each.status === 'rejected');
    expect(lost?.reason).toMatchObject({ code: 'DATABASE_UNAVAILABLE', details: { outcome: 'none' } });

    const startedAt = performance.now();
    const error = await caught(
      database.transaction((tx) => tx.query('SELECT pg_sleep(5)'), { timeoutMs: 200 }),
    );
    expect(error).toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    expect(performance.now() - startedAt).toBeLessThan(700);
    expect(await caught(database.query('SELECT pg_sleep(5)'))).toMatchObject({
      details: { sqlState: '57014', outcome: 'none' },
    });
  });

  test('a commit whose answer never came has an unknown outcome', async () => {
    await using proxy = await startFaultProxy({ url: own.url });
    const database = open(proxy.url, { statementTimeoutMs: 300 });
    const told: string[] = [];
    const error = await caught(
      database.transaction(
        async (tx) => {
          tx.afterRollback((outcome) => told.push(outcome));
          await tx.query(`INSERT INTO probe.notes VALUES ('acme', 80, 'x')`);
          proxy.blackhole('to-client');
        },
        { tenant: 'acme', timeoutMs: 600 },
      ),
    );
    expect(error).toMatchObject({ code: 'DATABASE_UNAVAILABLE', details: { outcome: 'unknown' } });
    expect(told).toEqual(['unknown']);
    // It did happen: who repeats it needs the same ids.
    await waitFor(
      () => own.query('SELECT 1 FROM probe.notes WHERE id = 80'),
      (rows) => rows.length === 1,
    );
  });

  test('a transaction left idle is ended by the server and reported', async () => {
    const database = open(own.url, { poolTimeoutMs: 9000, statementTimeoutMs: 9000 });
    const error = await caught(
      database.transaction(async (tx) => {
        await tx.query('SELECT 1');
        await sleep(5500);
        await tx.query('SELECT 1');
      }),
    );
    expect(error).toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
  });
});

describe('the pool', () => {
  test('opens up to size + overflow, makes the others wait no longer than the bound, closes the overflow', async () => {
    const database = open(own.url, { applicationName: 'pool-size', poolTimeoutMs: 400, overflowIdleMs: 500 });
    const holds = Array.from({ length: 4 }, () =>
      database.transaction((tx) => tx.query('SELECT pg_sleep(0.8)')),
    );
    await waitFor(
      () => connections('pool-size'),
      (pids) => pids.length === 4,
    );
    const startedAt = performance.now();
    const error = await caught(database.query('SELECT 1'));
    expect(error).toMatchObject({ code: 'DATABASE_UNAVAILABLE', details: { outcome: 'none' } });
    expect(performance.now() - startedAt).toBeLessThan(700);
    await Promise.all(holds);
    await waitFor(
      () => connections('pool-size'),
      (pids) => pids.length === 2,
      { timeoutMs: 14_000 },
    );
  });

  test('replaces a connection that the server closed, and one that is too old', async () => {
    const database = open(own.url, { applicationName: 'recycled', poolRecycleMs: 300, poolSize: 1 });
    const pid = async () => (await database.query<{ pid: number }>('SELECT pg_backend_pid() AS pid'))[0]?.pid;
    const first = await pid();
    await own.query('SELECT pg_terminate_backend($1)', [first]);
    await waitFor(
      () => connections('recycled'),
      (pids) => pids.length === 0,
    );
    await sleep(30); // what the server said last is in the socket; within these 20 ms nobody reads before writing
    const second = await pid();
    expect(second).not.toBe(first);
    await sleep(350);
    expect(await pid()).not.toBe(second);
  });

  test('a black hole costs each caller its bound, and its half-open connections are not handed out again', async () => {
    await using proxy = await startFaultProxy({ url: own.url });
    const database = open(proxy.url, { statementTimeoutMs: 300, poolSize: 3, maxOverflow: 0 });
    await Promise.all([1, 2, 3].map(() => database.query('SELECT pg_sleep(0.05)')));
    proxy.blackhole();
    const startedAt = performance.now();
    const errors = await Promise.all([1, 2, 3, 4, 5].map(() => caught(database.query('SELECT 1'))));
    for (const error of errors) expect(error).toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    expect(performance.now() - startedAt).toBeLessThan(2300 + 1500 + 500);
    await proxy.heal();
    expect(await database.query('SELECT 1 AS one')).toEqual([{ one: 1 }]);
  });

  test('starts and stays while the server is away, and serves when it is there', async () => {
    await using proxy = await startFaultProxy({ url: own.url });
    await proxy.refuse();
    const database = open(proxy.url);
    expect(await caught(database.query('SELECT 1'))).toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    await proxy.heal();
    expect(await database.query('SELECT 1 AS one')).toEqual([{ one: 1 }]);
  });

  test('the urgent connection does not queue behind a full pool, and close does not wait for ever', async () => {
    const database = open(own.url, { poolSize: 1, maxOverflow: 0, statementTimeoutMs: 8000 });
    const hold = caught(database.query('SELECT pg_sleep(6)'));
    await sleep(50);
    expect(await database.urgent.query('SELECT 1 AS one')).toEqual([{ one: 1 }]);
    const startedAt = performance.now();
    await database.close(200);
    expect(performance.now() - startedAt).toBeLessThan(1000);
    expect(await hold).toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    expect(await caught(database.query('SELECT 1'))).toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
  });

  test('tells how many connections are in use', async () => {
    const readings: (() => unknown)[] = [];
    const database = openDatabase({
      url: own.url,
      poolSize: 1,
      maxOverflow: 0,
      poolTimeoutMs: 1000,
      poolRecycleMs: 60_000,
      applicationName: 'gauge',
      log: silentLog,
      metrics: {
        ...silentMetrics,
        gauge: (_name, _options, read) => {
          readings.push(read);
          return () => undefined;
        },
      },
    });
    opened.push(database);
    const inUse = await database.transaction(async () => readings[0]?.());
    expect(inUse).toEqual([
      { value: 1, labels: { pool: 'main' } },
      { value: 0, labels: { pool: 'urgent' } },
    ]);
  });
});

describe('listen', () => {
  test('hears what is sent, and again after its connection was lost', async () => {
    await using proxy = await startFaultProxy({ url: own.url });
    const database = open(proxy.url);
    const heard: string[] = [];
    const end = new AbortController();
    database.listen('postgres_test', (payload) => heard.push(payload), end.signal);
    await waitFor(
      () => heard,
      (all) => all.includes(''),
    );
    await own.query(`SELECT pg_notify('postgres_test', 'one')`);
    await waitFor(
      () => heard,
      (all) => all.includes('one'),
    );
    proxy.cut();
    // What was sent while nobody listened is lost: the empty call says to look.
    await waitFor(
      () => heard,
      (all) => all.filter((each) => each === '').length === 2,
    );
    await own.query(`SELECT pg_notify('postgres_test', 'two')`);
    await waitFor(
      () => heard,
      (all) => all.includes('two'),
    );
    end.abort();
    await own.query(`SELECT pg_notify('postgres_test', 'three')`);
    const other: string[] = [];
    database.listen('postgres_other', (payload) => other.push(payload), AbortSignal.timeout(10_000));
    await waitFor(
      () => other,
      (all) => all.includes(''),
    );
    expect(heard).not.toContain('three');
  });
});

describe('the schema probe', () => {
  const signal = AbortSignal.timeout(60_000);

  test('is content with this release’s schema and names what is missing', async () => {
    const database = open();
    await database.probe(expectedMigrations('gateway'))(signal);
    const error = await caught(database.probe(['0001_roles-and-protection', '9999_later'])(signal));
    expect(error).toMatchObject({ code: 'SCHEMA_OUTDATED', details: { reason: 'schema' } });
  });

  test('tells an unmigrated database from one that is away', async () => {
    await own.query(`CREATE DATABASE ${own.name}_bare`);
    const bare = new URL(own.url);
    bare.pathname = `${bare.pathname}_bare`;
    const database = open(bare.href);
    expect(await caught(database.probe(['0001_x'])(signal))).toMatchObject({ code: 'SCHEMA_OUTDATED' });
    await database.close();
    await own.query(`DROP DATABASE ${own.name}_bare WITH (FORCE)`);
    await using proxy = await startFaultProxy({ url: own.url });
    await proxy.refuse();
    const away = open(proxy.url);
    expect(await caught(away.probe(['0001_x'])(signal))).toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
  });
});
