import type { Transaction } from '@signalbox/postgres/database';
import type { IntakeRecord } from './decode-record.ts';

/** Enters the records into the inbox and returns those that were not in it; the others have had their effect. */
export async function enterInbox(
  tx: Transaction,
  consumer: string,
  records: readonly IntakeRecord[],
): Promise<readonly IntakeRecord[]> {
  if (records.length === 0) return records;
  const rows = await tx.query<{ ord: number }>(
    { name: 'inbox_put', text: 'select ord from messaging.inbox_put($1::text, $2::text[], $3::uuid[])' },
    [consumer, records.map((record) => record.tenant), records.map((record) => record.eventId)],
  );
  const fresh = new Set(rows.map((row) => row.ord));
  return records.filter((_, i) => fresh.has(i + 1));
}
