import { type Static, Type } from 'typebox';
import { Id, Instant, MemoryRole, MemoryVersion, Name, Namespace, OpenObject } from './fields.ts';

/** A memory as it is from this version on. A consumer keeps the highest version that it has seen. */
export const MemoryStored = Type.Object({
  memory_id: Id,
  version: MemoryVersion,
  namespace: Namespace,
  session_id: Type.Optional(Id),
  turn_id: Type.Optional(Id),
  persona_id: Type.Optional(Name),
  role: MemoryRole,
  text: Type.String({ minLength: 1 }),
  occurred_at: Instant,
  stored_at: Instant,
  expires_at: Type.Optional(Instant),
  metadata: Type.Optional(OpenObject),
});
export type MemoryStored = Static<typeof MemoryStored>;

/** The memory is gone. A version like any other, so that an older one that comes late does not bring it back. */
export const MemoryDeleted = Type.Object({ memory_id: Id, version: MemoryVersion, deleted_at: Instant });
export type MemoryDeleted = Static<typeof MemoryDeleted>;

export const memoryWalSchema = 'memory.wal.v1';
export const memoryWalEvents = { 'memory.stored': MemoryStored, 'memory.deleted': MemoryDeleted } as const;
