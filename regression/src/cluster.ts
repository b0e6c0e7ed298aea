import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ModelSimulator, startModelSimulator } from '@signalbox/dev/model-simulator';
import { seededTenants } from '@signalbox/dev/seed-data';
import { seedStack } from '@signalbox/dev/seed-stack';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { type OwnTopics, ownTopics } from '@signalbox/testkit/topics';
import { waitFor } from '@signalbox/testkit/wait';
import { type Balancer, startBalancer } from './balancer.ts';
import { type ClusterParts, openParts } from './parts.ts';
import { createReplica, type Replica, type ServiceName } from './replica.ts';

export interface ClusterOptions {
  /** Replicas of each; 2 when left out. */
  readonly gateways?: number;
  readonly workers?: number;
  readonly executors?: number;
  readonly relays?: number;
  /**
   * Replicas of each service for memories, tasks and jobs; none when left out, and then no persona recalls, remembers or
   * delegates.
   */
  readonly side?: number;
  /** `own`: a broker, a database and a cache that the test may kill -9 and start again. Default: those of the run. */
  readonly parts?: 'own' | 'shared';
  /** Each replica behind proxies of its own, so that it can be cut off from one part alone. Default true. */
  readonly proxies?: boolean;
  /** Settings of all services, and of one. */
  readonly settings?: Readonly<Record<string, string>>;
  readonly settingsOf?: Readonly<Partial<Record<ServiceName, Readonly<Record<string, string>>>>>;
  /** Settings of one replica (`gateway-1`) at its first start alone. */
  readonly firstSettings?: Readonly<Record<string, Readonly<Record<string, string>>>>;
}

export interface Tenant {
  readonly tenant: string;
  readonly key: string;
}

export interface Cluster extends AsyncDisposable {
  readonly gateways: readonly Replica[];
  readonly workers: readonly Replica[];
  readonly executors: readonly Replica[];
  readonly relays: readonly Replica[];
  /** memory-sync, memory-replicator, delegation-gateway, delegation-worker, job-worker: `sync-1` and so on. */
  readonly side: readonly Replica[];
  readonly replicas: readonly Replica[];
  /** Where clients go: any gateway. */
  readonly balancer: Balancer;
  /** Where tasks are submitted: any delegation-gateway. */
  readonly taskBalancer: Balancer;
  readonly parts: ClusterParts;
  readonly model: ModelSimulator;
  readonly database: TestDatabase;
  readonly topics: OwnTopics;
  readonly redisPrefix: string;
  readonly tenants: readonly [Tenant, Tenant];
  /** Where the counting tools write a line a run (apps/tool-executor/test/counting-tools.ts). */
  readonly toolLog: string;
  replica(name: string): Replica;
  /** Heals all cuts, starts what does not run and waits until all are ready. */
  mend(settings?: Readonly<Record<string, string>>): Promise<void>;
  /** What is left to do, and what each replica warned of since a time: for the message of a test that failed. */
  told(since: Date): Promise<string>;
  /** Waits until no outbox row, no waiting or running work and no open turn is left. */
  settle(timeoutMs?: number): Promise<void>;
  close(): Promise<void>;
}

/** Short leases and timeouts: a test waits for each of them to run out. The session timeout is the broker's least. */
const shortTimes = {
  KAFKA_SESSION_TIMEOUT_MS: '6000',
  KAFKA_HEARTBEAT_INTERVAL_MS: '500',
  KAFKA_REBALANCE_TIMEOUT_MS: '6000',
  KAFKA_REQUEST_TIMEOUT_MS: '2000',
  OUTBOX_FAST_MAX_AGE_MS: '1000',
  OUTBOX_STALE_MS: '2000',
  OUTBOX_POLL_MS: '200',
  TURN_LEASE_MS: '2000',
  TOOL_EXECUTOR_LEASE_MS: '2000',
  MEMORY_SYNC_LEASE_MS: '2000',
  DELEGATION_LEASE_MS: '2000',
  TOOL_EXECUTOR_WARM_PROCESSES: '1',
  STREAM_KEEPALIVE_MS: '500',
  STREAM_RETRY_MS: '100',
  DATABASE_POOL_SIZE: '4',
  DATABASE_MAX_OVERFLOW: '4',
  RATE_LIMIT_MAX: '0',
  LOG_LEVEL: 'INFO',
};

const startedAtOnce = 6;

const executorEntry = new URL('../../apps/tool-executor/test/main-with-counting-tools.ts', import.meta.url);
const tools = ['count', 'count_once'];

const sideServices: readonly (readonly [ServiceName, string])[] = [
  ['memory-sync', 'sync'],
  ['memory-replicator', 'replicator'],
  ['delegation-gateway', 'tasks'],
  ['delegation-worker', 'tasker'],
  ['job-worker', 'jobs'],
];

/**
 * All services, several replicas of each, on a database and topics of their own, with the stand-in model, two tenants
 * with keys, and a balancer before the gateways. Resolves when all are ready; closing it leaves nothing behind.
 */
export async function startCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const closers: (() => Promise<unknown>)[] = [];
  const close = async () => {
    const failures: unknown[] = [];
    for (const closer of closers.splice(0).reverse())
      await closer().catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw new AggregateError(failures, 'the cluster did not close cleanly');
  };
  try {
    return await start(options, closers, close);
  } catch (error) {
    await close().catch(() => undefined);
    throw error;
  }
}

async function start(
  options: ClusterOptions,
  closers: (() => Promise<unknown>)[],
  close: () => Promise<void>,
): Promise<Cluster> {
  const parts = await openParts(options.parts ?? 'shared');
  closers.push(() => parts.close());
  const topics = ownTopics(parts.infra);
  closers.push(() => topics.drop());
  const folder = mkdtempSync(join(tmpdir(), 'signalbox-cluster-'));
  closers.push(async () => rmSync(folder, { recursive: true, force: true }));
  const [database, model] = await Promise.all([
    createTestDatabase(parts.infra),
    startModelSimulator(),
    topics.create(),
  ]);
  closers.push(
    () => model.close(),
    () => database.drop(),
  );
  await seed(database, (options.side ?? 0) > 0);

  const redisPrefix = `test-${randomBytes(5).toString('hex')}:`;
  const settings = {
    KAFKA_TOPIC_PREFIX: topics.prefix,
    KAFKA_GROUP_ID: `${topics.prefix}group`,
    REDIS_KEY_PREFIX: redisPrefix,
    MODEL_BASE_URL: model.url,
    MODEL_NAME: 'test-model',
    EXPORT_DIR: join(folder, 'exports'),
    ...shortTimes,
    ...options.settings,
  };
  const make = (service: ServiceName, short: string, count = 2) =>
    Promise.all(
      Array.from({ length: count }, async (_, index) => {
        const replica = await createReplica({
          service,
          name: `${short}-${index + 1}`,
          infra: parts.infra,
          databaseUrl: database.url,
          proxied: options.proxies ?? true,
          settings: { ...settings, ...options.settingsOf?.[service] },
          ...(service === 'tool-executor' ? { entry: executorEntry } : {}),
        });
        closers.push(() => replica.close());
        return replica;
      }),
    );
  const gateways = await make('gateway', 'gateway', options.gateways);
  const workers = await make('conversation-worker', 'worker', options.workers);
  const executors = await make('tool-executor', 'executor', options.executors);
  const relays = await make('outbox-sync', 'relay', options.relays);
  const side: Replica[] = [];
  for (const [service, short] of sideServices) side.push(...(await make(service, short, options.side ?? 0)));
  const replicas = [...gateways, ...workers, ...executors, ...relays, ...side];
  const runningUrls = (of: readonly Replica[]) => of.filter(({ running }) => running).map(({ url }) => url);
  const balancer = await startBalancer(() => runningUrls(gateways));
  closers.push(() => balancer.close());
  const taskGateways = side.filter(({ service }) => service === 'delegation-gateway');
  const taskBalancer = await startBalancer(() => runningUrls(taskGateways));
  closers.push(() => taskBalancer.close());

  const mend: Cluster['mend'] = async (more) => {
    await Promise.all(replicas.map((each) => each.heal()));
    for (const each of replicas) if (each.running) each.kill('SIGCONT');
    await Promise.all(replicas.filter((each) => !each.running).map((each) => each.start(more)));
    await Promise.all(replicas.map((each) => each.ready(30_000)));
  };
  // A few at a time: eighteen that start at once keep two cores busy for so long that none of them listens in time.
  for (let at = 0; at < replicas.length; at += startedAtOnce) {
    const few = replicas.slice(at, at + startedAtOnce);
    await Promise.all(few.map((each) => each.start(options.firstSettings?.[each.name])));
  }
  await mend();
  await waitForTools(database);

  const [acme, globex] = seededTenants;
  if (acme === undefined || globex === undefined) throw new Error('two tenants are seeded');
  return {
    gateways,
    workers,
    executors,
    relays,
    side,
    replicas,
    balancer,
    taskBalancer,
    parts,
    model,
    database,
    topics,
    redisPrefix,
    tenants: [acme, globex],
    toolLog: join(folder, 'tools.log'),
    replica(name) {
      const found = replicas.find((each) => each.name === name);
      if (found === undefined) throw new Error(`no replica ${name}`);
      return found;
    },
    mend,
    told: (since) => told(database, replicas, since),
    settle: (timeoutMs = 30_000) => settle(database, timeoutMs),
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** The seed of development, and the counting tools for both tenants. */
async function seed(database: TestDatabase, withSide: boolean): Promise<void> {
  await seedStack(database.ownerUrl, () => undefined);
  await database.query(
    `insert into tool_executor.tools (tenant, name)
     select t.tenant, n.name from identity.tenants t, unnest($1::text[]) n(name)`,
    [tools],
  );
  await database.query(
    "update conversation_worker.personas set tools = tools || $1::text[] where persona_id = 'assistant'",
    [tools],
  );
  if (!withSide)
    await database.query("update conversation_worker.personas set memory = '{}', delegates = '[]'");
}

/** The catalog goes through Kafka: until the worker has it, a turn would be told that there is no such tool. */
async function waitForTools(database: TestDatabase): Promise<void> {
  await waitFor(
    () =>
      database.query<{ n: string }>(
        'select count(*) n from conversation_worker.tools where name = any($1::text[])',
        [tools],
      ),
    ([row]) => Number(row?.n) === tools.length * seededTenants.length,
    { timeoutMs: 30_000, label: 'the tool catalog' },
  );
}

interface Left {
  readonly outbox: string;
  readonly turns: string;
  readonly calls: string;
  readonly open: string;
}

async function whatIsLeft(database: TestDatabase): Promise<Left | undefined> {
  const [left] = await database.query<Left>(
    `select (select count(*) from messaging.outbox) outbox,
            (select count(*) from conversation_worker.turns where finished_at is null) turns,
            (select count(*) from tool_executor.calls where finished_at is null) calls,
            (select count(*) from gateway.messages where ended_at is null) open`,
  );
  return left;
}

const warned = new Set(['WARNING', 'ERROR', 'CRITICAL']);

async function told(database: TestDatabase, replicas: readonly Replica[], since: Date): Promise<string> {
  const left = await whatIsLeft(database).catch(String);
  const lines = replicas.flatMap(({ name, running, logs }) => {
    const own = logs.filter(
      ({ level, timestamp }) => warned.has(level) && String(timestamp) >= since.toISOString(),
    );
    const shown = own.slice(-12).map((record) => {
      const { timestamp, level, event, error_message: why, topic, partition } = record;
      return `  ${timestamp} ${level} ${event} ${[why, topic, partition].filter((each) => each !== undefined).join(' ')}`;
    });
    return [`${name}${running ? '' : ' (dead)'}: ${own.length} warnings`, ...shown];
  });
  return [`left: ${JSON.stringify(left)}`, ...lines].join('\n');
}

async function settle(database: TestDatabase, timeoutMs: number): Promise<void> {
  await waitFor(
    () => whatIsLeft(database),
    (left) => left !== undefined && Object.values(left).every((count) => Number(count) === 0),
    { timeoutMs, intervalMs: 100, label: 'nothing left to do' },
  );
}
