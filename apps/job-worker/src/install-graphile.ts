import { EventEmitter } from 'node:events';
import { runMigrations, type SharedOptions } from 'graphile-worker';
import { graphileLogger } from './graphile-log.ts';

/** What a migration runs statements with: those of one connection, in one transaction. */
export interface MigrationDatabase {
  query(text: string, values?: unknown[]): Promise<{ rows: unknown[] }>;
}

/** The schema revision of the graphile-worker that this release runs with. A test holds it against the package. */
export const graphileRevision = 20;

/**
 * Brings graphile-worker's schema to its newest revision, by its own code, inside the transaction of the migration that
 * calls this. It begins and commits each of its steps by itself; here a step becomes a savepoint, so that `signalbox
 * migrate` stays one transaction, and its schema is there whole or not at all.
 *
 * A release with a newer graphile-worker (a higher revision) calls this from one more migration.
 */
export async function installGraphile(database: MigrationDatabase): Promise<void> {
  // What its first step does as well; without the table it would begin with a statement that fails.
  await database.query(`CREATE SCHEMA IF NOT EXISTS graphile_worker`);
  await database.query(`CREATE TABLE IF NOT EXISTS graphile_worker.migrations (
    id int PRIMARY KEY, ts timestamptz DEFAULT now() NOT NULL, breaking boolean NOT NULL DEFAULT false)`);
  await runMigrations({ pgPool: poolOfOne(database), logger: graphileLogger(undefined) });
}

const steps: Readonly<Record<string, string>> = {
  begin: 'SAVEPOINT graphile_step',
  commit: 'RELEASE SAVEPOINT graphile_step',
  rollback: 'ROLLBACK TO SAVEPOINT graphile_step',
};

type Pool = NonNullable<SharedOptions['pgPool']>;

/** The part of a pool that graphile-worker's migration uses, over the one connection of ours. */
function poolOfOne(database: MigrationDatabase): Pool {
  const query = (given: string | { text: string; values?: unknown[] }, values?: unknown[]) => {
    const text = typeof given === 'string' ? given : given.text;
    return database.query(
      steps[text] ?? text,
      values ?? (typeof given === 'string' ? undefined : given.values),
    );
  };
  const client = Object.assign(new EventEmitter(), { query, release: () => undefined });
  const pool = Object.assign(new EventEmitter(), {
    options: { max: 10 },
    connect: async () => client,
    query,
  });
  // It warns about a pool without listeners; errors of this connection are the migration's to tell.
  pool.on('error', () => undefined);
  pool.on('connect', () => undefined);
  return asPool(pool);
}

function asPool(pool: object): Pool {
  // Its type is the driver's whole pool; what is used of it at a migration is what stands above.
  return pool as Pool;
}
