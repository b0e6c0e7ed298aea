import { groupByTenant } from '@signalbox/api/tenant-rows';
import type { IntakeContext, IntakeRecord } from '@signalbox/messaging/messaging';
import type { Database, Transaction } from '@signalbox/postgres/database';

/**
 * Keeps the copy of ui.notifications. The row's own id makes a redelivered record a no-op, also when the notification was
 * read or cleared since; one that has expired is not stored again.
 */
export async function storeNotifications(
  records: readonly IntakeRecord[],
  tx: Transaction,
  { duplicates }: Pick<IntakeContext, 'duplicates'>,
): Promise<void> {
  const { tenants, upto, rows } = groupByTenant(records);
  const [row] = await tx.query<{ stored: number }>(
    {
      name: 'gateway_store_notifications',
      text: 'select gateway.store_notifications($1,$2,$3::json[]) as stored',
    },
    [tenants, upto, rows.map((record) => JSON.stringify(record.value))],
  );
  duplicates(records.length - (row?.stored ?? 0));
}

export interface NotificationRow {
  readonly notification_id: string;
  readonly seq: string;
  readonly kind: string;
  readonly level: string;
  readonly title: string;
  readonly body: string | null;
  readonly session_id: string | null;
  readonly data: Record<string, unknown> | null;
  readonly created_at: Date;
  readonly expires_at: Date;
  readonly read_at: Date | null;
}

export interface NotificationPage {
  readonly unread: boolean;
  /** `seq` of a row: those that came before it. */
  readonly before: string | undefined;
  readonly limit: number;
}

const shown = 'tenant = $1 and cleared_at is null and expires_at > now()';

/** Newest first, by when they came here. */
export function listNotifications(
  database: Database,
  tenant: string,
  { unread, before, limit }: NotificationPage,
): Promise<NotificationRow[]> {
  return database.transaction(
    (tx) =>
      tx.query<NotificationRow>(
        {
          name: 'gateway_notifications',
          text: `select notification_id, seq, kind, level, title, body, session_id, data, created_at, expires_at, read_at
            from gateway.notifications
            where ${shown} and ($2::bigint is null or seq < $2) and (not $3 or read_at is null)
            order by seq desc limit $4`,
        },
        [tenant, before ?? null, unread, limit],
      ),
    { tenant },
  );
}

/** When it was read first; undefined when there is none to read. */
export async function readNotification(
  tx: Transaction,
  tenant: string,
  id: string,
): Promise<Date | undefined> {
  const [row] = await tx.query<{ read_at: Date }>(
    {
      name: 'gateway_notification_read',
      text: `update gateway.notifications set read_at = coalesce(read_at, clock_timestamp())
        where ${shown} and notification_id = $2 returning read_at`,
    },
    [tenant, id],
  );
  return row?.read_at;
}

const clear = `set cleared_at = clock_timestamp(), title = '', body = null, data = null`;

/** Takes one away, its text at once. False when there is none. */
export async function clearNotification(tx: Transaction, tenant: string, id: string): Promise<boolean> {
  const rows = await tx.query(
    {
      name: 'gateway_notification_clear',
      text: `update gateway.notifications ${clear} where ${shown} and notification_id = $2 returning seq`,
    },
    [tenant, id],
  );
  return rows.length > 0;
}

/** Takes the oldest of the tenant away, `limit` at most. Answers how many. */
export async function clearNotifications(tx: Transaction, tenant: string, limit: number): Promise<number> {
  const rows = await tx.query(
    {
      name: 'gateway_notifications_clear',
      text: `with these as (
          select notification_id from gateway.notifications where ${shown} order by seq limit $2 for update)
        update gateway.notifications n ${clear} from these t
          where n.tenant = $1 and n.notification_id = t.notification_id returning n.seq`,
    },
    [tenant, limit],
  );
  return rows.length;
}
