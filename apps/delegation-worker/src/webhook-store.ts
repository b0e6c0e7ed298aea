import type { Outbox, OutgoingMessage } from '@signalbox/messaging/messaging';
import { toRecord } from '@signalbox/messaging/outgoing';
import type { Queryable } from '@signalbox/postgres/database';
import { currentTraceparent } from '@signalbox/telemetry/trace';
import type { Holder, WorkItem } from '@signalbox/work/queue';
import { serviceName } from './service-name.ts';

interface PutColumns {
  readonly id: string;
  readonly fast: boolean;
  readonly prev_id: string | null;
}

const finishWebhook = {
  name: 'delegation_webhooks_finish_webhook',
  text: `select id, fast, prev_id from delegation_webhooks.finish_webhook(
    $1, $2, $3, $4, $5, $6, $7, $8, $9::text[], $10::text[], $11::uuid[], $12::jsonb, $13::bytea[])`,
};

export interface WebhookStore {
  /** Ends a webhook and tells of it, in one transaction. Faults: LEASE_LOST (nothing was stored), DATABASE_UNAVAILABLE (may have been). */
  finish(
    item: WorkItem,
    holder: Holder,
    state: 'done' | 'failed',
    error: string | undefined,
    messages: readonly OutgoingMessage[],
  ): Promise<void>;
}

export function webhookStore(
  database: Queryable,
  outbox: Pick<Outbox, 'writer' | 'committed' | 'failed'>,
): WebhookStore {
  return {
    async finish(item, { owner, fence }, state, error, messages) {
      const traceparent = currentTraceparent();
      const records = messages.map((message) => ({
        ...toRecord(message, traceparent, serviceName),
        tenant: message.tenant,
        eventId: message.eventId,
      }));
      const rows = await database
        .query<PutColumns>(finishWebhook, [
          item.tenant,
          item.key,
          owner,
          fence,
          item.id,
          state,
          error ?? null,
          outbox.writer,
          records.map(({ topic }) => topic),
          records.map(({ key }) => key),
          records.map(({ eventId }) => eventId),
          JSON.stringify(records.map(({ headers }) => headers)),
          records.map(({ value }) => value),
        ])
        .catch((failure: unknown) => {
          outbox.failed(records, failure);
          throw failure;
        });
      outbox.committed(
        records.map((record, at) => {
          const row = rows[at];
          if (row === undefined) throw new Error('finish_webhook answered fewer rows than it got');
          return { ...record, id: row.id, fast: row.fast, prevId: row.prev_id };
        }),
      );
    },
  };
}
