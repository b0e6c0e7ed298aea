import { createHash } from 'node:crypto';
import type { MemoryRole } from './fields.ts';

/** What makes two memories the same one. */
export interface MemoryIdentity {
  readonly tenant: string;
  readonly namespace: string;
  readonly sessionId: string | undefined;
  readonly role: MemoryRole;
  /** RFC 3339. */
  readonly occurredAt: string;
  readonly text: string;
}

/**
 * The idempotency key of a memory: hex of SHA-256 over tenant, namespace, session, role, time and the content's hash, and
 * the id of a memory that is new under it: a UUIDv8 (RFC 9562, 5.8) of its first 122 bits.
 */
export function memoryIdentity(of: MemoryIdentity): {
  readonly idempotencyKey: string;
  readonly memoryId: string;
} {
  const content = createHash('sha256').update(of.text, 'utf8').digest('hex');
  const time = new Date(of.occurredAt).toISOString();
  const parts = [of.tenant, of.namespace, of.sessionId ?? '', of.role, time, content];
  const idempotencyKey = createHash('sha256').update(JSON.stringify(parts), 'utf8').digest('hex');
  return { idempotencyKey, memoryId: hashId(idempotencyKey) };
}

/** A UUIDv8 of the first 122 bits of a hash (hex, 32 digits or more). */
export function hashId(hash: string): string {
  const variant = ((Number.parseInt(hash.charAt(16), 16) & 0x3) | 0x8).toString(16);
  return `${hash.slice(0, 8)}-${hash.slice(8, 12)}-8${hash.slice(13, 16)}-${variant}${hash.slice(17, 20)}-${hash.slice(20, 32)}`;
}
