import { fault, isFault } from '@signalbox/faults/fault';
import { sqlState } from './classify-error.ts';
import { migrationFiles } from './migration-files.ts';
import type { Queryable } from './transaction.ts';

/**
 * Names of the migrations a service of this release needs: those of all libraries and of its own app
 * (`expectedMigrations('gateway')`). Reads the folder once, at start.
 */
export function expectedMigrations(app: string): string[] {
  return migrationFiles()
    .filter((file) => file.owner.startsWith('libs/') || file.owner === `apps/${app}`)
    .map((file) => file.name);
}

const missingText = {
  name: 'schema_missing',
  text: `SELECT wanted.name FROM unnest($1::text[]) AS wanted(name)
         WHERE NOT EXISTS (SELECT 1 FROM signalbox.migrations run WHERE run.name = wanted.name)
         ORDER BY wanted.name LIMIT 1`,
};

/** A probe for the readiness board. Throws SCHEMA_OUTDATED (details.reason 'schema') or DATABASE_UNAVAILABLE. */
export function schemaProbe(
  database: Queryable,
  expected: readonly string[],
): (signal: AbortSignal) => Promise<void> {
  return async () => {
    const missing = await firstMissing(database, expected);
    if (missing !== undefined) {
      throw fault('SCHEMA_OUTDATED', `migration ${missing} has not run`, {
        details: { reason: 'schema', missing },
      });
    }
  };
}

async function firstMissing(database: Queryable, expected: readonly string[]): Promise<string | undefined> {
  try {
    const rows = await database.query<{ name: string }>(missingText, [expected]);
    return rows[0]?.name;
  } catch (error) {
    // No table, no schema, or (on a database that was never migrated) no such role or database.
    const state = isFault(error) ? sqlState(error) : undefined;
    if (state !== undefined && ['42P01', '3F000', '42501', '28000', '28P01', '3D000'].includes(state)) {
      return expected[0] ?? 'of any kind';
    }
    throw error;
  }
}
