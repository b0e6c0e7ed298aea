import { type Static, Type } from 'typebox';
import { Id, Instant, MemoryRole, Name, Namespace, OpenObject } from './fields.ts';

/** Longest text of one memory, in code units. */
export const maxMemoryText = 32_768;

/**
 * One thing to remember. `memory_id` is derived from what it says (memory-ids.ts), so that whoever makes it knows it
 * before it is stored; one that is given by hand names a memory whose text this replaces as its next version.
 */
export const MemoryItem = Type.Object({
  memory_id: Id,
  /** SHA-256 over tenant, namespace, session, role, time and content: a second write under it is a repeat. */
  idempotency_key: Type.String({ pattern: '^[0-9a-f]{64}$' }),
  namespace: Namespace,
  session_id: Type.Optional(Id),
  turn_id: Type.Optional(Id),
  persona_id: Type.Optional(Name),
  role: MemoryRole,
  text: Type.String({ minLength: 1, maxLength: maxMemoryText }),
  occurred_at: Instant,
  /** After this it is not recalled any more. */
  expires_at: Type.Optional(Instant),
  metadata: Type.Optional(OpenObject),
});
export type MemoryItem = Static<typeof MemoryItem>;

/** What a turn has learned, or somebody has written by hand: stored one by one, each once. */
export const MemoryWriteRequested = Type.Object({
  memories: Type.Array(MemoryItem, { minItems: 1, maxItems: 64 }),
});
export type MemoryWriteRequested = Static<typeof MemoryWriteRequested>;

/** The memory is to be forgotten. One that overtakes the write of its memory wins: the write then stores nothing. */
export const MemoryDeleteRequested = Type.Object({
  memory_id: Id,
  reason: Type.Optional(Type.String({ maxLength: 500 })),
  requested_at: Instant,
});
export type MemoryDeleteRequested = Static<typeof MemoryDeleteRequested>;

export const memoryWritesSchema = 'memory.writes.v1';
export const memoryWritesEvents = {
  'memory.write_requested': MemoryWriteRequested,
  'memory.delete_requested': MemoryDeleteRequested,
} as const;
