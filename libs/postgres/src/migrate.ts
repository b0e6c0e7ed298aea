import { pathToFileURL } from 'node:url';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { runner } from 'node-pg-migrate';
import pg from 'pg';
import { connectionConfig } from './connection-pool.ts';
import { type GroupRole, grantLogin, groupRoles } from './login-role.ts';
import { type MigrationFile, migrationFiles, refuseGaps } from './migration-files.ts';

export interface MigrateOptions {
  /** The role that owns tables and sees all rows; no service has it. */
  readonly ownerUrl: string;
  /** Login roles of services: made if missing, and given the group roles. */
  readonly serviceUrl?: string;
  /** Which group roles the login of serviceUrl gets; all by default (dev runs every service as one login). */
  readonly groups?: readonly GroupRole[];
  readonly log: Logger;
  /** Where the workspace stands; tests use another. */
  readonly root?: string;
}

/** Any constant: one migration at a time in a database, others wait for it. */
const lockValue = 7_241_865_325_824_001;
const lockWaitMs = 60_000;

/**
 * Brings the database to this release's schema: every migration of `{libs,apps}/*​/migrations` in one numeric order, all
 * in one transaction (a migration may leave it with `pgm.noTransaction()`), then the login role. Safe to run again and
 * from several places at once. Returns the names that ran now.
 */
export async function migrate(options: MigrateOptions): Promise<string[]> {
  const { ownerUrl, serviceUrl, log } = options;
  const files = migrationFiles(options.root);
  const client = new pg.Client({ ...connectionConfig(ownerUrl, 'migrate'), lock_timeout: lockWaitMs });
  client.on('error', (error) => log.error('migrate.connection_lost', { error }));
  await client.connect();
  try {
    // Held by the session, released by its end: also when this process is killed.
    await client.query('SELECT pg_advisory_lock($1)', [lockValue]);
    refuseGaps(files, await namesRun(client));
    const ran = await runFiles(client, files, log);
    if (serviceUrl !== undefined) await grantLogin(client, serviceUrl, options.groups ?? groupRoles);
    log.info('migrate.done', { ran: ran.length, total: files.length });
    return ran;
  } finally {
    await client.end();
  }
}

async function namesRun(client: pg.Client): Promise<Set<string>> {
  const exists = await client.query<{ found: boolean }>(
    `SELECT to_regclass('signalbox.migrations') IS NOT NULL AS found`,
  );
  if (exists.rows[0]?.found !== true) return new Set();
  const rows = await client.query<{ name: string }>('SELECT name FROM signalbox.migrations');
  return new Set(rows.rows.map((row) => row.name));
}

/** The runner takes paths as glob patterns only; a checkout below a folder like `[x]` must not become one. */
function literalPattern(path: string): string {
  return path.replaceAll('\\', '/').replace(/[?*()[\]{}!+@]/g, '[$&]');
}

async function runFiles(client: pg.Client, files: readonly MigrationFile[], log: Logger): Promise<string[]> {
  if (files.length === 0) return [];
  const ran = await runner({
    dbClient: client,
    dir: files.map((file) => literalPattern(file.path)),
    useGlob: true,
    direction: 'up',
    migrationsSchema: 'signalbox',
    migrationsTable: 'migrations',
    createMigrationsSchema: true,
    singleTransaction: true,
    // Ours is held around all of this; order is held by refuseGaps, because blocks of numbers belong to packages.
    noLock: true,
    checkOrder: false,
    // Node reads our TypeScript itself; the runner's own loader would compile it another way.
    migrationLoaderStrategies: [
      { extensions: ['.sql'], loader: 'legacySql' },
      {
        extensions: ['.ts'],
        loader: async (paths) =>
          Promise.all(
            paths.map(async (path) => ({
              id: path,
              filePaths: [path],
              actions: await import(pathToFileURL(path).href),
            })),
          ),
      },
    ],
    logger: {
      debug: () => undefined,
      info: () => undefined,
      warn: (message: string) => log.warning('migrate.warning', {}, message),
      error: (message: string) => log.error('migrate.failed', {}, message),
    },
  });
  return ran.map((each) => {
    log.info('migrate.ran', { migration: each.name });
    return each.name;
  });
}
