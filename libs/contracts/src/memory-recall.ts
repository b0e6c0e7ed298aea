import { type Static, Type } from 'typebox';
import { DurationMs, Id, Instant, MemoryRole, MemoryVersion, Name, Namespace, OpenObject } from './fields.ts';

/** Past `deadline_at` nobody waits for the answer. */
const asked = { deadline_at: Instant };

/** Which memories help with this text? Best first. Without `namespaces`: all of the tenant. */
export const MemoryRecallRequested = Type.Object({
  ...asked,
  query: Type.String({ minLength: 1 }),
  namespaces: Type.Optional(Type.Array(Namespace, { minItems: 1, maxItems: 16 })),
  /** Memories of this session count for more. */
  session_id: Type.Optional(Id),
  roles: Type.Optional(Type.Array(MemoryRole, { minItems: 1, maxItems: 4 })),
  limit: Type.Integer({ minimum: 1, maximum: 50 }),
  min_score: Type.Optional(Type.Number({ minimum: 0, maximum: 1 })),
});
/** The memories of a tenant in the order of their ids, a page. `after`: the last id of the page before. */
export const MemoryPageRequested = Type.Object({
  ...asked,
  after: Type.Optional(Id),
  namespaces: Type.Optional(Type.Array(Namespace, { minItems: 1, maxItems: 16 })),
  session_id: Type.Optional(Id),
  limit: Type.Integer({ minimum: 1, maximum: 500 }),
});
export type MemoryRecallRequested = Static<typeof MemoryRecallRequested>;
export type MemoryPageRequested = Static<typeof MemoryPageRequested>;

export const memoryRecallRequestsSchema = 'memory.recall.requests.v1';
export const memoryRecallRequestsEvents = {
  'memory.recall_requested': MemoryRecallRequested,
  'memory.page_requested': MemoryPageRequested,
} as const;

const memory = {
  memory_id: Id,
  version: MemoryVersion,
  namespace: Namespace,
  session_id: Type.Optional(Id),
  turn_id: Type.Optional(Id),
  persona_id: Type.Optional(Name),
  role: MemoryRole,
  text: Type.String(),
  occurred_at: Instant,
  expires_at: Type.Optional(Instant),
  metadata: Type.Optional(OpenObject),
};
export const Memory = Type.Object(memory);
/** `score`: 0 to 1, for this query alone. */
export const RecalledMemory = Type.Object({ ...memory, score: Type.Number({ minimum: 0, maximum: 1 }) });
export type Memory = Static<typeof Memory>;
export type RecalledMemory = Static<typeof RecalledMemory>;

export const MemoriesRecalled = Type.Object({ memories: Type.Array(RecalledMemory), took_ms: DurationMs });
/** `next_after`: ask with it for the next page; missing on the last one. A page may hold fewer than were asked for. */
export const MemoryPage = Type.Object({ memories: Type.Array(Memory), next_after: Type.Optional(Id) });
/** It cannot be answered; why. */
export const MemoryRequestRefused = Type.Object({ error_code: Name, message: Type.String() });
export type MemoriesRecalled = Static<typeof MemoriesRecalled>;
export type MemoryPage = Static<typeof MemoryPage>;
export type MemoryRequestRefused = Static<typeof MemoryRequestRefused>;

export const memoryRecallResultsSchema = 'memory.recall.results.v1';
export const memoryRecallResultsEvents = {
  'memory.recalled': MemoriesRecalled,
  'memory.page': MemoryPage,
  'memory.refused': MemoryRequestRefused,
} as const;
