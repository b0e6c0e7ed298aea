import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import { memoryIdentity } from '@signalbox/contracts/memory-ids';
import type { MemoryItem } from '@signalbox/contracts/memory-writes';
import { type IntakeRecord, openMessaging } from '@signalbox/messaging/messaging';
import { openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase } from '@signalbox/testkit/database';
import { testInfra } from '@signalbox/testkit/infra';
import { launchService, type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { ownTopics } from '@signalbox/testkit/topics';
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
  const entry = new URL('../../../dev/simulators/memory/main.ts', import.meta.url);
  const simulator = launchService('memory-simulator', { PORT: '0', HOST: '127.0.0.1' }, { entry });
  const line = await waitFor(
    () => simulator.noise.find((each) => each.startsWith('stand-in memory backend on ')),
    (found): found is string => found !== undefined,
    { label: 'the stand-in memory backend' },
  );
  const url = line.replace('stand-in memory backend on ', '');
  const read = async <T>(path: string): Promise<T> => {
    const body: T = JSON.parse(await (await fetch(`${url}${path}`)).text());
    return body;
  };
  return {
    url,
    async faults(...orders: Record<string, unknown>[]): Promise<void> {
      const response = await fetch(`${url}/admin/faults`, { method: 'PUT', body: JSON.stringify(orders) });
      if (!response.ok) throw new Error(await response.text());
    },
    held: (of: string = tenant) =>
      read<{ memory_id: string; version: number; deleted: boolean; body: { text?: string } }[]>(
        `/admin/memories?tenant=${of}`,
      ),
    effects: () => read<Record<string, { sent: number; effects: number }>>('/admin/effects'),
    requests: () =>
      read<{ path: string; tenant: string; idempotency_key: string; traceparent?: string; count: number }[]>(
        '/admin/requests',
      ),
    close: () => simulator[Symbol.asyncDispose](),
  };
}

export type Backend = Awaited<ReturnType<typeof startBackend>>;

/** The rest of the world as memory-sync sees it: who writes memories, who reads memory.wal, the database behind. */
export async function startHarness() {
  const database = await createTestDatabase();
  const topics = ownTopics();
  await topics.create('memory.writes', 'memory.wal', 'ui.notifications', 'jobs.commands', 'jobs.results');
  const env = {
    KAFKA_BOOTSTRAP_SERVERS: testInfra().kafka,
    KAFKA_TOPIC_PREFIX: topics.prefix,
    KAFKA_GROUP_ID: `${topics.prefix}group`,
    DATABASE_URL: database.url,
    DATABASE_POOL_SIZE: '4',
    DATABASE_MAX_OVERFLOW: '4',
    MEMORY_BACKEND_TIMEOUT_MS: '1000',
    MEMORY_SYNC_RETRY_MIN_MS: '50',
    MEMORY_SYNC_RETRY_MAX_MS: '400',
    MEMORY_SYNC_LEASE_MS: '2500',
  };
  const own = openDatabase({
    url: database.url,
    poolSize: 2,
    maxOverflow: 2,
    poolTimeoutMs: 5_000,
    poolRecycleMs: 600_000,
    applicationName: 'test',
    log: silentLog,
    metrics: silentMetrics,
  });
  const messaging = openMessaging({
    settings: loadSettings('test', { ...kafkaSettings, ...outboxSettings }, givenSources(env)),
    instanceId: newId(),
    service: 'test',
    database: own,
    log: silentLog,
    metrics: silentMetrics,
  });
  const wal: IntakeRecord[] = [];
  const notifications: IntakeRecord[] = [];
  const collect = (topic: 'memory.wal' | 'ui.notifications', into: IntakeRecord[]) =>
    messaging.consume({
      topic,
      group: 'test',
      inbox: 'own-row',
      handler: async (records) => {
        into.push(...records);
      },
    });
  collect('memory.wal', wal);
  collect('ui.notifications', notifications);

  const send = (eventType: string, value: object, of: Sending & { readonly memoryId: string }) =>
    messaging.producer.direct({
      topic: 'memory.writes',
      key: idKey(of.tenant ?? tenant, of.keyId ?? of.memoryId),
      headers: {
        tenant_id: of.tenant ?? tenant,
        event_id: newId(),
        event_type: eventType,
        schema: 'memory.writes.v1',
        ...(of.traceparent === undefined ? {} : { traceparent: of.traceparent }),
      },
      value,
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
    async start(more: Record<string, string> = {}, { ready = true } = {}): Promise<SpawnedService> {
      const service = await spawnService('memory-sync', { ...env, ...more });
      if (ready) await service.ready();
      return service;
    },
    async close(): Promise<void> {
      await messaging.close();
      await own.close();
      await topics.drop();
      await database.drop();
    },
  };
}

export type Harness = Awaited<ReturnType<typeof startHarness>>;
