import { idKey } from '@signalbox/contracts/keys';
import { memoryIdentity } from '@signalbox/contracts/memory-ids';
import type { MemoryItem } from '@signalbox/contracts/memory-writes';
import { startStandIn } from '@signalbox/testkit/stand-in';
import { openSurroundings, type StartOptions } from '@signalbox/testkit/surroundings';
import { waitFor } from '@signalbox/testkit/wait';

export const tenant = 'acme';

/** A memory with the ids that its content gives; `memory_id` makes it another version of that one. */
export function memory(text: string, more: Partial<MemoryItem> & { tenant?: string } = {}): MemoryItem {
  const { tenant: of = tenant, ...fields } = more;
  const role = fields.role ?? 'note';
  const namespace = fields.namespace ?? 'default';
  const occurredAt = fields.occurred_at ?? new Date().toISOString();
  const { memoryId, idempotencyKey } = memoryIdentity({
    ...{ tenant: of, namespace, role, occurredAt, text },
    sessionId: fields.session_id,
  });
  return {
    ...{ memory_id: memoryId, idempotency_key: idempotencyKey, namespace, role, text },
    occurred_at: occurredAt,
    ...fields,
  };
}

interface Sending {
  readonly tenant?: string;
  /** What stands behind the tenant in the key; the memory where it is left out. */
  readonly keyId?: string;
  readonly traceparent?: string;
}

/** The stand-in memory backend, as a process of its own. */
export async function startBackend() {
  const { url, faults, read, close } = await startStandIn('memory');
  return {
    ...{ url, faults, close },
    held: (of: string = tenant) =>
      read<{ memory_id: string; version: number; deleted: boolean; body: { text?: string } }[]>(
        `/admin/memories?tenant=${of}`,
      ),
    effects: () => read<Record<string, { sent: number; effects: number }>>('/admin/effects'),
    requests: () =>
      read<{ path: string; tenant: string; idempotency_key: string; traceparent?: string; count: number }[]>(
        '/admin/requests',
      ),
  };
}

export type Backend = Awaited<ReturnType<typeof startBackend>>;

/** The rest of the world as memory-sync sees it: who writes memories, who reads memory.wal, the database behind. */
export async function startHarness() {
  const around = await openSurroundings({
    topics: ['memory.writes', 'memory.wal', 'ui.notifications', 'jobs.commands', 'jobs.results'],
    env: {
      DATABASE_POOL_SIZE: '4',
      DATABASE_MAX_OVERFLOW: '4',
      MEMORY_BACKEND_TIMEOUT_MS: '1000',
      MEMORY_SYNC_RETRY_MIN_MS: '50',
      MEMORY_SYNC_RETRY_MAX_MS: '400',
      MEMORY_SYNC_LEASE_MS: '2500',
    },
  });
  const { env, database, topics, messaging } = around;
  const wal = around.read('memory.wal');
  const notifications = around.read('ui.notifications');

  const send = (eventType: string, value: object, of: Sending & { readonly memoryId: string }) =>
    around.send({
      ...{ topic: 'memory.writes', tenant: of.tenant ?? tenant, eventType, value },
      key: idKey(of.tenant ?? tenant, of.keyId ?? of.memoryId),
      headers: { traceparent: of.traceparent },
    });
  /** Event ids seen before are repeats on the wire. */
  const versions = (memoryId: string, of = tenant): number[] => {
    const seen = new Set<string>();
    return wal.flatMap(({ eventId, key, value }) => {
      if (key !== idKey(of, memoryId) || seen.has(eventId)) return [];
      seen.add(eventId);
      return [Number(Reflect.get(Object(value), 'version'))];
    });
  };

  return {
    ...{ env, database, topics, wal, notifications, messaging },
    /** One record with these memories. */
    write: (items: readonly MemoryItem[], of: Sending = {}) =>
      send('memory.write_requested', { memories: items }, { memoryId: items[0]?.memory_id ?? '', ...of }),
    forget: (memoryId: string, of: Sending = {}) =>
      send(
        'memory.delete_requested',
        { memory_id: memoryId, requested_at: new Date().toISOString() },
        { memoryId, ...of },
      ),
    versions,
    /** Waits until memory.wal holds exactly these versions of the memory, in this order. */
    async inWal(memoryId: string, expected: readonly number[], of = tenant, timeoutMs = 15_000) {
      await waitFor(
        () => versions(memoryId, of),
        (found) => found.length >= expected.length,
        { timeoutMs, label: `${expected.length} versions of ${memoryId} in memory.wal`, intervalMs: 10 },
      );
      return versions(memoryId, of);
    },
    states: (memoryId: string, of = tenant) =>
      database.query<{ version: number; state: string; deleted: boolean; last_error: string | null }>(
        `select version, state, deleted, last_error from memory_sync.memories
         where tenant = $1 and memory_id = $2 order by version`,
        [of, memoryId],
      ),
    start: (more: Record<string, string> = {}, options: StartOptions = {}) =>
      around.start('memory-sync', more, options),
    close: around.close,
  };
}

export type Harness = Awaited<ReturnType<typeof startHarness>>;
