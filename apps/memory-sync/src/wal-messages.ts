import { createHash } from 'node:crypto';
import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import { hashId } from '@signalbox/contracts/memory-ids';
import { type MemoryDeleted, type MemoryStored, memoryWalSchema } from '@signalbox/contracts/memory-wal';
import type { MemoryItem } from '@signalbox/contracts/memory-writes';
import { type NotificationPosted, uiNotificationsSchema } from '@signalbox/contracts/ui-notifications';
import type { OutgoingMessage } from '@signalbox/messaging/messaging';

/** One version of a memory; without an item it is the deletion. */
export interface MemoryVersion {
  readonly tenant: string;
  readonly memoryId: string;
  readonly version: number;
  readonly item: MemoryItem | undefined;
}

interface Origin {
  readonly traceparent?: string | undefined;
  readonly requestId?: string | undefined;
}

const notificationKeptMs = 7 * 24 * 3600 * 1000;

/** The record of memory.wal: what the memory is from this version on. */
export function walMessage(
  { tenant, memoryId, version, item }: MemoryVersion,
  origin: Origin,
): OutgoingMessage {
  const now = new Date().toISOString();
  const value: MemoryStored | MemoryDeleted =
    item === undefined
      ? { memory_id: memoryId, version, deleted_at: now }
      : { ...contentOf(item), memory_id: memoryId, version, stored_at: now };
  return {
    topic: 'memory.wal',
    key: idKey(tenant, memoryId),
    tenant,
    eventType: item === undefined ? 'memory.deleted' : 'memory.stored',
    schema: memoryWalSchema,
    eventId: newId(),
    ...(item?.session_id === undefined ? {} : { sessionId: item.session_id }),
    ...(origin.requestId === undefined ? {} : { requestId: origin.requestId }),
    ...(origin.traceparent === undefined ? {} : { traceparent: origin.traceparent }),
    value,
  };
}

/** What a memory says, without what the writing of it needed. */
function contentOf(item: MemoryItem) {
  const { namespace, session_id, turn_id, persona_id, role, text, occurred_at, expires_at, metadata } = item;
  return {
    namespace,
    ...(session_id === undefined ? {} : { session_id }),
    ...(turn_id === undefined ? {} : { turn_id }),
    ...(persona_id === undefined ? {} : { persona_id }),
    role,
    text,
    occurred_at,
    ...(expires_at === undefined ? {} : { expires_at }),
    ...(metadata === undefined ? {} : { metadata }),
  };
}

/**
 * What people are told of a version that failed for good: ids and a code, no text. One notification a tenant and hour: a
 * backend that is away fails thousands, and its id is what clients show it once by.
 */
export function failedMessage(
  { tenant, memoryId, version, item }: MemoryVersion,
  errorCode: string,
): OutgoingMessage {
  const now = Date.now();
  const hour = Math.floor(now / 3_600_000);
  const id = hashId(createHash('sha256').update(`memory.failed ${tenant} ${hour}`).digest('hex'));
  const value: NotificationPosted = {
    notification_id: id,
    kind: 'memory.failed',
    level: 'error',
    title: 'Memories could not be handed to the memory backend',
    body: 'They are kept and can be sent again: signalbox memory failed, signalbox memory requeue.',
    ...(item?.session_id === undefined ? {} : { session_id: item.session_id }),
    data: { memory_id: memoryId, version, error_code: errorCode },
    created_at: new Date(now).toISOString(),
    expires_at: new Date(now + notificationKeptMs).toISOString(),
  };
  return {
    topic: 'ui.notifications',
    key: idKey(tenant, id),
    tenant,
    eventType: 'notification.posted',
    schema: uiNotificationsSchema,
    eventId: newId(),
    value,
  };
}
