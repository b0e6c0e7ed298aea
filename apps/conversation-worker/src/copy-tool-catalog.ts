import { readValue } from '@signalbox/contracts/validate';
import type { IntakeHandler } from '@signalbox/messaging/messaging';
import type { Queryable } from '@signalbox/postgres/database';

/**
 * Intake of tool.catalog into this service's own copy. The version of an entry is its inbox: an older or equal one
 * changes nothing. A tombstone removes the entry.
 */
export const copyToolCatalog: IntakeHandler = async (records, tx) => {
  for (const { tenant, keyId, value } of records) {
    await tx.query("select set_config('app.tenant', $1, true)", [tenant]);
    if (value === null) {
      await tx.query('delete from conversation_worker.tools where tenant = $1 and name = $2', [
        tenant,
        keyId,
      ]);
      continue;
    }
    const entry = readValue('tool.catalog', 'tool.catalogued', value);
    if (entry !== undefined) await putTool(tx, tenant, entry);
  }
};

interface CatalogEntry {
  readonly name: string;
  readonly description: string;
  readonly parameters: object;
  readonly timeout_ms: number;
  readonly enabled: boolean;
  readonly version: number;
}

async function putTool(tx: Queryable, tenant: string, entry: CatalogEntry): Promise<void> {
  await tx.query(
    `insert into conversation_worker.tools (tenant, name, description, parameters, timeout_ms, enabled, version)
     values ($1, $2, $3, $4, $5, $6, $7)
     on conflict (tenant, name) do update
     set description = excluded.description, parameters = excluded.parameters, timeout_ms = excluded.timeout_ms,
         enabled = excluded.enabled, version = excluded.version
     where tools.version < excluded.version`,
    [tenant, entry.name, entry.description, entry.parameters, entry.timeout_ms, entry.enabled, entry.version],
  );
}
