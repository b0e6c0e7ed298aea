import { fault } from '@signalbox/faults/fault';
import type { Database } from '@signalbox/postgres/database';
import { graphileRevision } from './install-graphile.ts';

/**
 * A readiness probe: our migrations have run, and graphile-worker's schema is at the revision of this release. A newer one
 * is fine: it is there before the release that needs it. Faults: SCHEMA_OUTDATED, DATABASE_UNAVAILABLE.
 */
export function schemaProbe(
  database: Pick<Database, 'probe' | 'urgent'>,
  expected: readonly string[],
): (signal: AbortSignal) => Promise<void> {
  const ours = database.probe(expected);
  return async (signal) => {
    await ours(signal);
    const [row] = await database.urgent.query<{ id: number | null }>(
      'SELECT max(id) AS id FROM graphile_worker.migrations',
    );
    if ((row?.id ?? 0) < graphileRevision) {
      throw fault('SCHEMA_OUTDATED', `graphile-worker's schema is older than revision ${graphileRevision}`, {
        details: { reason: 'schema', missing: `graphile_worker ${graphileRevision}` },
      });
    }
  };
}
