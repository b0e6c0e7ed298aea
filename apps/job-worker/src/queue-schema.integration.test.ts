import { openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase } from '@signalbox/testkit/database';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { graphileRevision } from './install-graphile.ts';

let database: Awaited<ReturnType<typeof createTestDatabase>>;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database?.drop());

function open(url: string) {
  return openDatabase({
    url,
    poolSize: 1,
    maxOverflow: 1,
    poolTimeoutMs: 5_000,
    poolRecycleMs: 600_000,
    applicationName: 'test',
    log: silentLog,
    metrics: silentMetrics,
  });
}

test('the migration brings the schema of the graphile-worker that is installed', async () => {
  // A newer package has more: then it needs one more migration of ours, and this number.
  expect(await database.query('SELECT max(id) AS id FROM graphile_worker.migrations')).toEqual([
    { id: graphileRevision },
  ]);
});

test('the schema belongs to the owner, and job-worker alone uses it', async () => {
  const owners = await database.query<{ owner: string; me: string }>(
    `SELECT DISTINCT pg_get_userbyid(relowner) AS owner, current_user AS me FROM pg_class
     WHERE relnamespace = 'graphile_worker'::regnamespace`,
  );
  expect(owners).toHaveLength(1);
  expect(owners[0]?.owner).toBe(owners[0]?.me);
  const users = await database.query<{ role: string }>(
    `SELECT r.rolname AS role FROM pg_roles r
     WHERE r.rolname LIKE 'signalbox\\_%' AND NOT r.rolcanlogin AND r.rolname <> 'signalbox_owner' AND NOT r.rolsuper
       AND (has_schema_privilege(r.oid, 'graphile_worker', 'USAGE')
         OR has_table_privilege(r.oid, 'graphile_worker._private_jobs', 'SELECT')
         OR has_function_privilege(r.oid, 'graphile_worker.force_unlock_workers(text[])', 'EXECUTE'))`,
  );
  expect(users).toEqual([{ role: 'signalbox_job_worker' }]);
  const changes = await database.query(
    `SELECT 1 WHERE has_schema_privilege('signalbox_job_worker', 'graphile_worker', 'CREATE')
       OR has_table_privilege('signalbox_job_worker', 'graphile_worker.migrations', 'INSERT')`,
  );
  expect(changes).toEqual([]);
});

test('a service sees jobs of the tenant that it says, and of nobody where it says none', async () => {
  await database.query(
    `INSERT INTO job_worker.jobs (tenant, job_id, kind, arguments, requested_at)
     SELECT t, gen_random_uuid(), 'export_memory', '{}', now() FROM unnest(ARRAY['acme', 'globex']) AS t`,
  );
  const service = open(database.url);
  try {
    const seen = 'SELECT tenant FROM job_worker.jobs';
    expect(await service.query(seen)).toEqual([]);
    expect(await service.transaction((tx) => tx.query(seen), { tenant: 'acme' })).toEqual([
      { tenant: 'acme' },
    ]);
    await expect(
      service.transaction(
        (tx) =>
          tx.query(
            `INSERT INTO job_worker.jobs (tenant, job_id, kind, arguments, requested_at)
             VALUES ('globex', gen_random_uuid(), 'export_memory', '{}', now())`,
          ),
        { tenant: 'acme' },
      ),
    ).rejects.toMatchObject({ cause: expect.objectContaining({ code: '42501' }) });
  } finally {
    await service.close();
  }
});
