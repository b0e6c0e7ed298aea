import { delegationUpdatesSchema, type WebhookUpdated } from '@signalbox/contracts/delegation-updates';
import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import { type NotificationPosted, uiNotificationsSchema } from '@signalbox/contracts/ui-notifications';
import { asFault, fault } from '@signalbox/faults/fault';
import type { GuardedAnswer, GuardedFetch } from '@signalbox/http-client/guarded-fetch';
import { webhookHeaders, webhookSecret } from '@signalbox/http-client/webhook-signature';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import type { OutgoingMessage } from '@signalbox/messaging/messaging';
import { runWithContext } from '@signalbox/telemetry/context';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { attribute, currentTraceparent, withSpan } from '@signalbox/telemetry/trace';
import type { Lease, WorkerOptions, WorkItem } from '@signalbox/work/worker';
import type { hostBreakers } from './host-breakers.ts';
import type { WebhookPayload } from './task-messages.ts';
import type { TaskMetrics } from './task-metrics.ts';
import type { WebhookStore } from './webhook-store.ts';

export interface WorkWebhooksParts {
  readonly store: WebhookStore;
  readonly fetch: GuardedFetch;
  readonly breakers: ReturnType<typeof hostBreakers>;
  readonly signingSecret: string;
  readonly fail: (item: WorkItem, lease: Lease, why: string) => Promise<unknown>;
  readonly log: Logger;
  readonly metrics: TaskMetrics;
}

const dayMs = 24 * 3_600_000;
/** How long a notification of a failed webhook is shown. */
const showMs = 7 * dayMs;

/**
 * How webhooks are tried again: pauses double from 2 s to an hour, with full jitter, until they are a day old. As many
 * tries as fit.
 */
export const webhookRetry = {
  baseDelayMs: 2_000,
  maxDelayMs: 3_600_000,
  maxRetries: 10_000,
  maxAgeMs: dayMs,
};

/**
 * Calls callback URLs: at least once, with the same webhook-id and body at every try. 2xx is delivered, 410 ends it,
 * everything else (a redirect too) is tried again, not before what Retry-After says. The lane is the task's, so a receiver
 * hears of its statuses in their order.
 */
export function webhookWork(parts: WorkWebhooksParts): Required<Pick<WorkerOptions, 'run' | 'giveUp'>> {
  const { store, metrics, log } = parts;

  async function inWebhook(
    item: WorkItem,
    lease: Lease,
    act: (payload: WebhookPayload) => Promise<void>,
  ): Promise<void> {
    const payload = readPayload(item.payload);
    if (payload === undefined) {
      log.error('webhook.not_read', { webhookId: item.id });
      await parts.fail(item, lease, 'the payload is not one that this release reads');
      return;
    }
    const attributes = {
      'webhook.id': item.id,
      'task.id': payload.task_id,
      [attribute.tenantId]: item.tenant,
      [attribute.attempt]: item.attempt,
    };
    await runWithContext({ tenantId: item.tenant }, () =>
      withSpan('webhook', { kind: 'client', attributes, parent: item.traceparent }, () => act(payload)),
    );
  }

  async function call(item: WorkItem, lease: Lease, { url, body }: WebhookPayload): Promise<void> {
    const secret = webhookSecret(parts.signingSecret, item.tenant);
    const began = performance.now();
    const seconds = () => (performance.now() - began) / 1_000;
    const traceparent = currentTraceparent();
    try {
      await parts.breakers.of(item.tenant, hostOf(url)).run(async (signal) => {
        const timestamp = Math.floor(Date.now() / 1_000);
        const answer = await parts.fetch(url, {
          method: 'POST',
          headers: {
            'content-type': 'application/json',
            'user-agent': 'signalbox-webhooks/1',
            ...(traceparent === undefined ? {} : { traceparent }),
            ...webhookHeaders(secret, { id: item.id, timestamp, body }),
          },
          body,
          // Nobody reads what a receiver says besides: a long page behind its 200 must not mean another call.
          headOnly: true,
          signal: AbortSignal.any([signal, lease.signal]),
        });
        judge(answer);
      });
    } catch (error) {
      metrics.webhook('not_taken', seconds());
      throw error;
    }
    metrics.webhook('delivered', seconds());
  }

  return {
    run: (item, lease) =>
      inWebhook(item, lease, async (payload) => {
        await call(item, lease, payload);
        failPoint('webhook.answered');
        const told = webhookUpdated(item, payload, 'delivered', undefined);
        await store.finish(item, lease, 'done', undefined, [told]);
        log.info('webhook.delivered', { webhookId: item.id, taskId: payload.task_id, attempt: item.attempt });
      }),
    giveUp: (item, lease, error) =>
      inWebhook(item, lease, async (payload) => {
        const { code, message } = asFault(error);
        const why = `${code}: ${message}`.slice(0, 1_000);
        await store.finish(item, lease, 'failed', why, [
          webhookUpdated(item, payload, 'failed', why),
          notification(item, payload, why),
        ]);
        metrics.webhook('failed', 0);
        log.error('webhook.failed', {
          webhookId: item.id,
          taskId: payload.task_id,
          attempt: item.attempt,
          error,
        });
      }),
  };
}

/** Whether the answer says that the webhook was taken. @throws WEBHOOK_GONE for good, CALL_FAILED to be tried again */
export function judge({ status, headers }: Pick<GuardedAnswer, 'status' | 'headers'>): void {
  if (status >= 200 && status < 300) return;
  if (status === 410) throw fault('WEBHOOK_GONE', 'the callback URL answered 410');
  const why = status >= 300 && status < 400 ? '; redirects are not followed' : '';
  const retryAfterMs = readRetryAfter(headers['retry-after'], Date.now());
  throw fault('CALL_FAILED', `the callback URL answered ${status}${why}`, {
    details: { status },
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}

/** Retry-After (RFC 9110, 10.2.3) in milliseconds: seconds or a date; undefined for anything else. */
export function readRetryAfter(text: string | undefined, now: number): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1_000;
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now);
}

function webhookUpdated(
  item: WorkItem,
  { task_id, reply_to }: WebhookPayload,
  status: WebhookUpdated['status'],
  lastError: string | undefined,
): OutgoingMessage {
  const value: WebhookUpdated = {
    task_id,
    webhook_id: item.id,
    status,
    attempts: item.attempt,
    ...(lastError === undefined ? {} : { last_error: lastError }),
    updated_at: new Date().toISOString(),
  };
  return {
    topic: 'delegation.updates',
    key: idKey(item.tenant, task_id),
    tenant: item.tenant,
    eventType: 'webhook.updated',
    schema: delegationUpdatesSchema,
    eventId: newId(),
    correlationId: task_id,
    replyTo: reply_to,
    value,
  };
}

function notification(item: WorkItem, { task_id, url }: WebhookPayload, why: string): OutgoingMessage {
  const now = Date.now();
  const value: NotificationPosted = {
    notification_id: newId(),
    kind: 'webhook.failed',
    level: 'error',
    title: 'A webhook could not be delivered',
    body: why,
    data: { task_id, webhook_id: item.id, host: hostOf(url) },
    created_at: new Date(now).toISOString(),
    expires_at: new Date(now + showMs).toISOString(),
  };
  return {
    topic: 'ui.notifications',
    key: idKey(item.tenant, value.notification_id),
    tenant: item.tenant,
    eventType: 'notification.posted',
    schema: uiNotificationsSchema,
    eventId: newId(),
    value,
  };
}

function hostOf(url: string): string {
  return URL.parse(url)?.host ?? '';
}

function readPayload(payload: unknown): WebhookPayload | undefined {
  if (typeof payload !== 'object' || payload === null) return undefined;
  const fields = new Map<string, unknown>(Object.entries(payload));
  const [url, body, taskId, replyTo] = ['url', 'body', 'task_id', 'reply_to'].map((name) => fields.get(name));
  if (typeof url !== 'string' || typeof body !== 'string' || typeof taskId !== 'string') return undefined;
  return { url, body, task_id: taskId, reply_to: typeof replyTo === 'string' ? replyTo : undefined };
}
