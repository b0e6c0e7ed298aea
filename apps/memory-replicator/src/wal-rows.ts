import { readValue } from '@signalbox/contracts/validate';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import { poisonRecord } from '@signalbox/messaging/poison-record';

/** A memory as one record of memory.wal leaves it; without `memory` it was deleted. */
interface WalRow {
  readonly tenant: string;
  readonly memoryId: string;
  readonly version: number;
  readonly columns: readonly unknown[];
}

/** Tenants in one statement at most (delivery rule 25). */
const maxTenants = 64;

/**
 * Records as parameters of `memory_replicator.take`, behind its first: rows of a tenant beside each other, each memory
 * once in its highest version. More than one call where there are many tenants.
 * @throws POISON_RECORD for a record whose key is not that of its memory: its order would be another's.
 */
export function walRows(records: readonly IntakeRecord[]): unknown[][] {
  const latest = new Map<string, WalRow>();
  for (const record of records) {
    const row = rowOf(record);
    if (row === undefined) continue;
    const known = latest.get(record.key);
    if (known === undefined || known.version < row.version) latest.set(record.key, row);
  }
  const byTenant = new Map<string, WalRow[]>();
  for (const row of latest.values()) {
    const rows = byTenant.get(row.tenant);
    if (rows === undefined) byTenant.set(row.tenant, [row]);
    else rows.push(row);
  }
  // In one order everywhere: two intakes that hold a partition in a rebalance do not wait for each other in a ring.
  const tenants = [...byTenant.keys()].sort();
  const calls: unknown[][] = [];
  for (let at = 0; at < tenants.length; at += maxTenants) {
    const some = tenants.slice(at, at + maxTenants);
    const rows = some.flatMap((tenant) => byTenant.get(tenant) ?? []);
    const columns = (rows[0]?.columns ?? []).map((_, index) => rows.map((row) => row.columns[index]));
    calls.push([some, some.map((tenant) => byTenant.get(tenant)?.length ?? 0), ...columns]);
  }
  return calls;
}

function rowOf({ eventType, value, tenant, keyId, offset }: IntakeRecord): WalRow | undefined {
  if (eventType === 'memory.deleted') {
    const gone = readValue('memory.wal', 'memory.deleted', value);
    if (gone === undefined) return undefined;
    if (gone.memory_id !== keyId) throw poisonRecord(offset, 'the key names another memory');
    const { memory_id: memoryId, version, deleted_at: at } = gone;
    const nothing = Array.from({ length: 10 }, () => null);
    return { tenant, memoryId, version, columns: [memoryId, version, ...nothing, at] };
  }
  const stored = readValue('memory.wal', 'memory.stored', value);
  if (stored === undefined) return undefined;
  if (stored.memory_id !== keyId) throw poisonRecord(offset, 'the key names another memory');
  const { memory_id: memoryId, version } = stored;
  return {
    tenant,
    memoryId,
    version,
    columns: [
      memoryId,
      version,
      stored.namespace,
      stored.session_id ?? null,
      stored.turn_id ?? null,
      stored.persona_id ?? null,
      stored.role,
      stored.text,
      stored.occurred_at,
      stored.stored_at,
      stored.expires_at ?? null,
      stored.metadata === undefined ? null : JSON.stringify(stored.metadata),
      null,
    ],
  };
}
