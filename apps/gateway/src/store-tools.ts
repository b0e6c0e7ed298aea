import { groupByTenant } from '@signalbox/api/tenant-rows';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import type { Transaction } from '@signalbox/postgres/database';

/** Keeps the copy of tool.catalog: the row's own offset makes a redelivered or older record a no-op. */
export async function storeTools(records: readonly IntakeRecord[], tx: Transaction): Promise<void> {
  const { tenants, upto, rows } = groupByTenant(records);
  await tx.query(
    { name: 'gateway_store_tools', text: 'select gateway.store_tools($1,$2,$3,$4,$5::json[])' },
    [
      tenants,
      upto,
      rows.map((record) => record.keyId),
      rows.map((record) => record.offset.toString()),
      rows.map((record) => (record.value === null ? null : JSON.stringify(record.value))),
    ],
  );
}
