import { randomBytes } from 'node:crypto';
import { silentLog } from '@signalbox/telemetry/silent';
import { testInfra } from '@signalbox/testkit/infra';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { open } from '../test/open.ts';
import type { Database } from './database.ts';
import { migrate } from './migrate.ts';
import { migrationFiles } from './migration-files.ts';

const name = `signalbox_migrate_${randomBytes(4).toString('hex')}`;
const login = `${name}_login`;
const { ownerUrl: serverUrl } = testInfra();
let server: Database;

function urlOf(user?: string): string {
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  if (user !== undefined) {
    url.username = user;
    url.password = 'a:b/c';
  }
  return url.href;
}

beforeAll(async () => {
  server = open(serverUrl, { statementTimeoutMs: 30_000 });
  await server.query(`CREATE DATABASE ${name}`);
});
afterAll(async () => {
  await server.query(`DROP DATABASE ${name} WITH (FORCE)`);
  await server.query(`DROP ROLE IF EXISTS ${login}`);
  await server.close();
});

test('twice at once and again: each migration runs once, the login is made and bounded', async () => {
  const options = { ownerUrl: urlOf(), serviceUrl: urlOf(login), log: silentLog };
  const [one, two] = await Promise.all([migrate(options), migrate(options)]);
  const all = migrationFiles().map((file) => file.name);
  expect([...one, ...two].sort()).toEqual(all);
  expect(await migrate(options)).toEqual([]);

  const service = open(urlOf(login));
  const [limits] = await service.query<Record<string, string>>('SHOW idle_in_transaction_session_timeout');
  expect(limits).toEqual({ idle_in_transaction_session_timeout: '5s' });
  const [role] = await service.query(
    `SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user`,
  );
  expect(role).toEqual({ rolsuper: false, rolbypassrls: false, rolcreaterole: false, rolcreatedb: false });
  const groups = await service.query<{ name: string; member: boolean }>(
    `SELECT rolname AS name, pg_has_role(current_user, oid, 'MEMBER') AS member FROM pg_roles
     WHERE rolname LIKE 'signalbox\\_%' AND NOT rolcanlogin`,
  );
  for (const group of groups) {
    const reachesAll = ['signalbox_queue', 'signalbox_identity'].includes(group.name);
    expect(group.member, group.name).toBe(!reachesAll);
  }
  await service.close();
});

test('tenants’ tables have forced row level security, others are out of a service’s reach', async () => {
  const owner = open(urlOf());
  const found = await owner.query<{ name: string }>(
    `SELECT c.oid::regclass::text AS name FROM pg_class c
     WHERE c.relkind IN ('r', 'p') AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
       AND c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'signalbox')
       AND (EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant')
            OR has_any_column_privilege($1, c.oid, 'SELECT, INSERT, UPDATE'))`,
    [login],
  );
  expect(found.map((table) => table.name)).toEqual([]);
  // A definer function without a pinned search_path can be made to call somebody else's function.
  const loose = await owner.query<{ name: string }>(
    `SELECT p.oid::regprocedure::text AS name FROM pg_proc p
     WHERE p.prosecdef AND p.pronamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')
       AND NOT EXISTS (SELECT 1 FROM unnest(p.proconfig) AS c WHERE c LIKE 'search_path=%')`,
  );
  expect(loose.map((each) => each.name)).toEqual([]);
  const queues = await owner.query<{ name: string }>(
    `SELECT c.oid::regclass::text AS name FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS may
     WHERE c.relname IN ('outbox', 'inbox', 'dead_letters', 'lanes') AND c.relkind = 'r'
       AND has_table_privilege($1, c.oid, may)`,
    [login],
  );
  expect(queues.map((each) => each.name)).toEqual([]);
  await owner.close();
});

test('a role that sees every tenant is refused as a service', async () => {
  const error = await migrate({ ownerUrl: urlOf(), serviceUrl: urlOf(), log: silentLog }).catch(
    (thrown: unknown) => thrown,
  );
  expect(String(error)).toContain('services need a role of their own');
});
