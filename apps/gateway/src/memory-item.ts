import { createHash } from 'node:crypto';
import type { MemoryRole } from '@signalbox/contracts/fields';
import { memoryIdentity } from '@signalbox/contracts/memory-ids';
import { type MemoryItem, maxMemoryText } from '@signalbox/contracts/memory-writes';
import { type FieldError, fault } from '@signalbox/faults/fault';

/** A memory as somebody writes it by hand. */
export interface WrittenMemory {
  readonly text: string;
  readonly namespace?: string | undefined;
  readonly session_id?: string | undefined;
  readonly role?: MemoryRole | undefined;
  readonly memory_id?: string | undefined;
  readonly occurred_at?: string | undefined;
  readonly expires_at?: string | undefined;
  readonly metadata?: Record<string, unknown> | undefined;
}

/** Of the JSON text: with it a page of memories still fits into one record. */
export const maxMetadataBytes = 32_768;
/** What Postgres and a date of JavaScript both hold. */
const firstInstant = Date.parse('0001-01-01T00:00:00Z');
const lastInstant = Date.parse('9999-12-31T23:59:59.999Z');

/**
 * The item of memory.writes for it. `now`: epoch milliseconds, when it was said if it does not say. Throws
 * VALIDATION_ERROR for times that are none or have passed and for a text that is too long, BODY_TOO_LARGE for metadata.
 */
export function memoryItem(tenant: string, written: WrittenMemory, now: number): MemoryItem {
  const { text, namespace = 'default', role = 'note', session_id: sessionId, metadata } = written;
  const errors: FieldError[] = [];
  // The schema counts code points, whoever stores it code units.
  if (text.length > maxMemoryText)
    errors.push({ path: '/text', message: `must not be longer than ${maxMemoryText} UTF-16 code units` });
  const occurredAt = instant('/occurred_at', written.occurred_at, errors) ?? now;
  const expiresAt = instant('/expires_at', written.expires_at, errors);
  if (expiresAt !== undefined && expiresAt <= now)
    errors.push({ path: '/expires_at', message: 'must not have passed' });
  if (errors.length > 0) throw fault('VALIDATION_ERROR', 'the memory cannot be stored', { errors });
  if (metadata !== undefined && Buffer.byteLength(JSON.stringify(metadata)) > maxMetadataBytes)
    throw fault('BODY_TOO_LARGE', `metadata is over ${maxMetadataBytes} bytes`);

  const time = new Date(occurredAt).toISOString();
  const identity = memoryIdentity({ tenant, namespace, sessionId, role, occurredAt: time, text });
  return {
    memory_id: written.memory_id ?? identity.memoryId,
    // The same text at the same time for another memory that was named by hand is no repeat of it.
    idempotency_key:
      written.memory_id === undefined || written.memory_id === identity.memoryId
        ? identity.idempotencyKey
        : createHash('sha256').update(`${identity.idempotencyKey} ${written.memory_id}`).digest('hex'),
    namespace,
    ...(sessionId === undefined ? {} : { session_id: sessionId }),
    role,
    text,
    occurred_at: time,
    ...(expiresAt === undefined ? {} : { expires_at: new Date(expiresAt).toISOString() }),
    ...(metadata === undefined ? {} : { metadata }),
  };
}

function instant(path: string, text: string | undefined, errors: FieldError[]): number | undefined {
  if (text === undefined) return undefined;
  const at = Date.parse(text);
  if (at >= firstInstant && at <= lastInstant) return at;
  errors.push({ path, message: 'must be a time of the years 1 to 9999, without a leap second' });
  return undefined;
}
