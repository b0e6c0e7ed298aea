import { createHash, randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { migrate } from '@signalbox/postgres/migrate';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { type TestInfra, testInfra } from './infra.ts';
import { waitFor } from './wait.ts';

export interface TestDatabase {
  readonly name: string;
  /** As the service role: row level security applies. What DATABASE_URL is set to. */
  readonly url: string;
  /** As the role that owns the tables and sees all rows. */
  readonly ownerUrl: string;
  /** Runs a statement as the owner: to arrange and to look. */
  query<R>(text: string, values?: readonly unknown[]): Promise<R[]>;
  /** Drops it, whoever is still connected. */
  drop(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

const root = join(import.meta.dirname, '../../..');
/** Any constant: who makes the template. */
const templateLock = 7_240_385_112;
const role = 'signalbox_test';

/**
 * A database of this release's schema for one test file: a clone of a template that is migrated once for each state of
 * the migrations, which takes a fraction of the time of migrating. In the run's server, where no other is given.
 */
export async function createTestDatabase(
  infra: Pick<TestInfra, 'ownerUrl'> = testInfra(),
): Promise<TestDatabase> {
  const { ownerUrl } = infra;
  const template = `signalbox_template_${migrationsHash()}`;
  const name = `signalbox_test_${randomBytes(6).toString('hex')}`;
  await withServer(ownerUrl, async (server) => {
    await waitFor(
      () => makeTemplate(server, ownerUrl, template),
      (made) => made,
      {
        timeoutMs: 60_000,
        label: 'the database template',
      },
    );
    await server.query(`CREATE DATABASE ${name} TEMPLATE ${template}`);
  });
  const owned = urlOf(ownerUrl, name);
  let opened: Database | undefined;
  const drop = async () => {
    await opened?.close();
    opened = undefined;
    await withServer(ownerUrl, (server) => server.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`));
  };
  return {
    name,
    url: asRole(owned),
    ownerUrl: owned,
    query: <R>(text: string, values: readonly unknown[] = []) => {
      opened ??= open(owned);
      return opened.query<R>(text, values);
    },
    drop,
    [Symbol.asyncDispose]: drop,
  };
}

/** Connections of a test's own, without log and metrics. */
export function openTestDatabase(url: string): Database {
  return openDatabase({
    ...{ url, poolSize: 4, maxOverflow: 4, poolTimeoutMs: 5_000, poolRecycleMs: 600_000 },
    ...{ applicationName: 'test', log: silentLog, metrics: silentMetrics },
  });
}

/** False while another process makes it. A template gets its name last, so one half made is never cloned. */
async function makeTemplate(server: Database, ownerUrl: string, template: string): Promise<boolean> {
  if (await exists(server, template)) {
    return true;
  }
  return server.transaction(async (lock) => {
    const [held] = await lock.query<{ held: boolean }>('SELECT pg_try_advisory_xact_lock($1) AS held', [
      templateLock,
    ]);
    if (held?.held !== true) {
      return false;
    }
    if (!(await exists(server, template))) {
      const unfinished = `${template}_unfinished`;
      await server.query(`DROP DATABASE IF EXISTS ${unfinished} WITH (FORCE)`);
      await server.query(`CREATE DATABASE ${unfinished}`);
      const url = urlOf(ownerUrl, unfinished);
      await migrate({ ownerUrl: url, serviceUrl: asRole(url), log: silentLog });
      await server.query(`ALTER DATABASE ${unfinished} RENAME TO ${template}`);
    }
    return true;
  });
}

async function exists(server: Database, name: string): Promise<boolean> {
  return (await server.query('SELECT 1 FROM pg_database WHERE datname = $1', [name])).length > 0;
}

/** Of every migration, and of the SQL of libs/work and libs/api, which migrations are made from. */
function migrationsHash(): string {
  const hash = createHash('sha256');
  for (const path of migrationSources()) {
    hash.update(path).update(readFileSync(join(root, path)));
  }
  return hash.digest('hex').slice(0, 16);
}

function migrationSources(): string[] {
  const packages = ['libs', 'apps'].flatMap((folder) =>
    readdirSync(join(root, folder)).map((name) => `${folder}/${name}/migrations`),
  );
  return [...packages, 'libs/work/src/sql', 'libs/work/src', 'libs/api/src/sql']
    .filter((folder) => existsSync(join(root, folder)))
    .flatMap((folder) => readdirSync(join(root, folder)).map((file) => `${folder}/${file}`))
    .filter((path) => /migrations\/.+\.(sql|ts)$|\/sql\/.+\.ts$|queue-migration\.ts$/.test(path))
    .filter((path) => !path.endsWith('.test.ts'))
    .sort();
}

async function withServer<T>(ownerUrl: string, use: (server: Database) => Promise<T>): Promise<T> {
  const server = open(ownerUrl);
  try {
    return await use(server);
  } finally {
    await server.close();
  }
}

function open(url: string): Database {
  return openDatabase({
    url,
    poolSize: 2,
    maxOverflow: 2,
    poolTimeoutMs: 20_000,
    poolRecycleMs: 600_000,
    statementTimeoutMs: 60_000,
    applicationName: 'testkit',
    log: silentLog,
    metrics: silentMetrics,
  });
}

function urlOf(url: string, database: string): string {
  const changed = new URL(url);
  changed.pathname = `/${database}`;
  return changed.href;
}

function asRole(url: string): string {
  const changed = new URL(url);
  changed.username = role;
  changed.password = role;
  return changed.href;
}
