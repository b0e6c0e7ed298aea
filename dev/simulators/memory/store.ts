/** A memory as it was sent, with its tenant. */
export interface HeldMemory {
  readonly tenant: string;
  readonly memory_id: string;
  readonly version: number;
  readonly deleted: boolean;
  readonly body: Readonly<Record<string, unknown>>;
}

export interface MemoryBook {
  /** Takes a version. A key that it knows has no second effect; an older version than it holds changes nothing. */
  take(memory: HeldMemory, idempotencyKey: string): void;
  list(tenant?: string): HeldMemory[];
  /** How often each key was sent, and how often it had an effect: once. */
  effects(): Readonly<Record<string, { readonly sent: number; readonly effects: number }>>;
}

/** What the backend holds, in memory. A backend that keeps its promise: one effect a key. */
export function createMemoryBook(): MemoryBook {
  const memories = new Map<string, HeldMemory>();
  const keys = new Map<string, { sent: number; effects: number }>();
  return {
    take(memory, idempotencyKey) {
      const key = `${memory.tenant} ${idempotencyKey}`;
      const counts = keys.get(key) ?? { sent: 0, effects: 0 };
      keys.set(key, counts);
      counts.sent += 1;
      if (counts.effects > 0) return;
      counts.effects += 1;
      const name = `${memory.tenant} ${memory.memory_id}`;
      if ((memories.get(name)?.version ?? 0) < memory.version) memories.set(name, memory);
    },
    list: (tenant) => [...memories.values()].filter((held) => tenant === undefined || held.tenant === tenant),
    effects: () => Object.fromEntries(keys),
  };
}
