import { isId } from '@signalbox/contracts/ids';
import { isTenant } from '@signalbox/contracts/keys';
import { webhookSettings } from '@signalbox/http-client/webhook-settings';
import { webhookSecret } from '@signalbox/http-client/webhook-signature';
import { invalid, table, withOperator } from './operator.ts';
import { commandSettings } from './settings.ts';

interface Streams {
  readonly print: (line: string) => void;
  readonly note: (line: string) => void;
}

interface FailedWebhook {
  readonly tenant: string;
  readonly webhook_id: string;
  readonly task_id: string;
  readonly url: string;
  readonly attempts: number;
  readonly failed_at: Date;
  readonly last_error: string | null;
}

/** Webhooks of one call of the function that requeues. */
const requeueBatch = 1_000;

/** What a tenant's receivers are given, to check signatures with. Needs no database: it is derived. */
export function showWebhookSecret(tenant: string, { print }: Streams): void {
  const { webhookSigningSecret } = commandSettings(webhookSettings);
  print(webhookSecret(webhookSigningSecret, tenantOf(tenant)));
}

/** Webhooks that are not tried any more, of one tenant or of all. */
export async function listFailedWebhooks(
  { tenant, limit }: { readonly tenant?: string; readonly limit: number },
  { print, note }: Streams,
): Promise<void> {
  await withOperator('webhooks', note, async ({ database }) => {
    const rows = await database.query<FailedWebhook>(
      'select * from delegation_webhooks.failed_webhooks($1, $2)',
      [tenant === undefined ? null : tenantOf(tenant), limit],
    );
    table(
      ['tenant', 'webhook', 'task', 'tries', 'failed', 'url', 'last error'],
      rows.map((row) => [
        ...[row.tenant, row.webhook_id, row.task_id, String(row.attempts)],
        ...[row.failed_at.toISOString(), row.url, row.last_error ?? '–'],
      ]),
      print,
    );
  });
}

/** Failed webhooks are tried again: those of a tenant, of one task of it, or one. */
export async function requeueWebhooks(
  { tenant, task, id }: { readonly tenant: string; readonly task?: string; readonly id?: string },
  { print, note }: Streams,
): Promise<void> {
  for (const [option, value] of Object.entries({ task, id })) {
    if (value !== undefined && !isId(value)) throw invalid(option, 'is no id');
  }
  await withOperator('webhooks', note, async ({ database, log, by }) => {
    let count = 0;
    for (let batch = requeueBatch; batch === requeueBatch; count += batch) {
      const rows = await database.query('select * from delegation_webhooks.requeue_webhooks($1, $2, $3)', [
        tenantOf(tenant),
        task ?? null,
        id ?? null,
      ]);
      batch = rows.length;
    }
    log.info('webhooks.requeued', { by, count });
    print(`requeued ${count}`);
  });
}

function tenantOf(tenant: string): string {
  if (isTenant(tenant)) return tenant;
  throw invalid('tenant', 'is no tenant');
}
