import { createHash } from 'node:crypto';
import { idKey } from '@signalbox/contracts/keys';
import { hashId } from '@signalbox/contracts/memory-ids';
import { type NotificationPosted, uiNotificationsSchema } from '@signalbox/contracts/ui-notifications';
import type { OutgoingMessage } from '@signalbox/messaging/messaging';

export interface EndedJob {
  readonly tenant: string;
  readonly jobId: string;
  readonly kind: string;
  readonly arguments: unknown;
}

const failedKeptMs = 7 * 86_400_000;

const titles: Readonly<Record<string, string>> = {
  export_session: 'session',
  export_memory: 'memories',
};

/** Tells people of the tenant that what they asked for is there. `expiresAt`: of its link. */
export function exportReady(
  job: EndedJob,
  result: Record<string, unknown>,
  expiresAt: Date,
): OutgoingMessage {
  return notification(job, 'export.ready', {
    level: 'info',
    title: `The export of the ${titles[job.kind] ?? job.kind} is ready`,
    data: { job_id: job.jobId, kind: job.kind, ...result },
    expires_at: expiresAt.toISOString(),
  });
}

/** Tells them that it could not be had, and why. */
export function exportFailed(job: EndedJob, error: string): OutgoingMessage {
  return notification(job, 'export.failed', {
    level: 'error',
    title: `The export of the ${titles[job.kind] ?? job.kind} failed`,
    body: error.slice(0, 4_096),
    data: { job_id: job.jobId, kind: job.kind },
    expires_at: new Date(Date.now() + failedKeptMs).toISOString(),
  });
}

type Told = Pick<NotificationPosted, 'level' | 'title' | 'body' | 'data' | 'expires_at'>;

/** A job has one end, so what tells of it has ids that are its own: told again it would be the same notification. */
function notification(job: EndedJob, kind: string, told: Told): OutgoingMessage {
  const { tenant, jobId } = job;
  const notificationId = idOf('notification', job);
  const sessionId = sessionOf(job.arguments);
  const value: NotificationPosted = {
    notification_id: notificationId,
    kind,
    ...told,
    ...(sessionId === undefined ? {} : { session_id: sessionId }),
    created_at: new Date().toISOString(),
  };
  return {
    topic: 'ui.notifications',
    key: idKey(tenant, notificationId),
    tenant,
    eventType: 'notification.posted',
    schema: uiNotificationsSchema,
    eventId: idOf('event', job),
    correlationId: jobId,
    value,
  };
}

function idOf(what: string, { tenant, jobId }: EndedJob): string {
  return hashId(createHash('sha256').update(`${what} of job ${tenant}:${jobId}`).digest('hex'));
}

export function sessionOf(given: unknown): string | undefined {
  const id: unknown =
    typeof given === 'object' && given !== null ? Reflect.get(given, 'session_id') : undefined;
  return typeof id === 'string' ? id : undefined;
}
