import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { environmentWith } from '@signalbox/config/process-environment';
import { openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { Kafka, logLevel } from 'kafkajs';
import { bounded } from './conversation.ts';

const root = join(import.meta.dirname, '..', '..');
const seededTenant = 'acme';
/** What the seeded `assistant` is, without its tools: it recalls, and is remembered. */
export const rememberingPersona = 'remembering';
/** The same, but nothing that is said is remembered. */
export const recallingPersona = 'recalling';
const everyService = readdirSync(join(root, 'apps')).filter((name) => name !== 'cli');

/** The key that the seed gives the tenant, as the embedded stack prints it in its banner. */
function seededKey(banner: string): string {
  const key = /sk_dev_acme[\w-]+/.exec(banner)?.[0];
  if (key === undefined) throw new Error('the banner names no key');
  return key;
}

export interface BenchStack {
  gatewayUrl: string;
  apiKey: string;
  tenant: string;
  kafka: string;
  modelUrl: string;
  /** Postgres as the role that owns the tables: for floors that make tables of their own. */
  ownerUrl: string;
  /** The environment that a service needs to join this stack. */
  addresses: Record<string, string>;
  /** Of the services, not of the parts: what a turn costs in our own processes. */
  pids(): number[];
  /** Waits until no outbox row and no open turn is left. */
  settle(): Promise<void>;
  /** Records in conversation.inbound. */
  acceptedRecords(): Promise<number>;
  /** Rows inserted, updated and deleted so far, over all services' tables. */
  rowsWritten(): Promise<number>;
  /** An order to the stand-in model (dev/simulators/model/README.md); an empty one takes all back. */
  modelFaults(fault: Readonly<Record<string, string | number>>): Promise<void>;
  close(): Promise<void>;
}

interface StackState {
  kafka: { bootstrap: string; clusterId?: string };
  postgres: { ownerUrl: string; url: string };
  redis: { url: string };
  otlp?: { url: string };
  model: { url: string };
}

/** No bound of the product may decide a figure: what is measured is what it can do, not what it allows. */
const wideBounds = {
  TENANT_MAX_OPEN_TURNS: '10000000',
  RATE_LIMIT_MAX: '0',
  OUTBOX_MAX_ROWS: '10000000',
  // A turn of a slow model holds a place and a connection for as long as the model speaks.
  TURNS_MAX_ACTIVE: '1024',
  HTTP_CLIENT_MAX_CONNECTIONS: '1024',
};

/**
 * Starts parts of its own in a folder of its own (flushed to disk as in production), migrates, seeds, and runs the
 * services with their log in a file. Nothing of it touches a stack that runs already.
 */
export async function startStack(options: {
  services: readonly string[];
  tracing?: boolean;
}): Promise<BenchStack> {
  const folder = mkdtempSync(join(tmpdir(), 'signalbox-bench-'));
  const parts = startProcess(
    'dev/src/start.ts',
    [
      ...['--data-dir', folder],
      // Parts alone: the services of a cell are started beside them, and no other takes records or time.
      ...everyService.flatMap((name) => ['--without', name]),
      ...['kafka', 'postgres', 'redis', 'zipkin', 'otlp', 'model'].flatMap((name) => [`--port-${name}`, '0']),
    ],
    { ENVIRONMENT: 'dev' },
    join(folder, 'parts.log'),
  );
  const state = await waitForState(folder, parts);
  const environment = {
    ...wideBounds,
    ENVIRONMENT: 'dev',
    HOST: '127.0.0.1',
    LOG_FORMAT: 'json',
    LOG_LEVEL: 'INFO',
    TRACING_ENABLED: String(options.tracing ?? true),
    KAFKA_BOOTSTRAP_SERVERS: state.kafka.bootstrap,
    DATABASE_URL: state.postgres.url,
    REDIS_URL: state.redis.url,
    MODEL_BASE_URL: state.model.url,
    ...(state.otlp === undefined ? {} : { OTEL_EXPORTER_OTLP_ENDPOINT: state.otlp.url }),
  };
  const services = await Promise.all(
    options.services.map(async (name) => {
      const logFile = join(folder, `${name}.log`);
      const child = startProcess(`apps/${name}/src/main.ts`, [], { ...environment, PORT: '0' }, logFile);
      return { name, child, url: await waitForPort(name, child, logFile) };
    }),
  );
  await Promise.all(services.map(({ name, url }) => waitForReady(name, url)));

  // The embedded stack's owner is the cluster's superuser, so it counts over all tenants.
  const database = openDatabase({
    url: state.postgres.ownerUrl,
    poolSize: 1,
    maxOverflow: 0,
    poolTimeoutMs: 10_000,
    poolRecycleMs: 3_600_000,
    applicationName: 'bench',
    log: silentLog,
    metrics: silentMetrics,
  });
  // Turns are measured without memories, as they always were; two personas have them, for what is about them.
  await database.query(
    `insert into conversation_worker.personas (tenant, persona_id, system_prompt, model_profile, memory)
     select tenant, n.name, system_prompt, model_profile,
       case when n.name = $2 then memory || '{"write":[]}' else memory end
     from conversation_worker.personas, unnest(array[$1, $2]) n(name) where persona_id = 'assistant'`,
    [rememberingPersona, recallingPersona],
  );
  await database.query(
    'insert into gateway.personas (tenant, persona_id) select distinct tenant, unnest($1::text[]) from gateway.personas',
    [[rememberingPersona, recallingPersona]],
  );
  await database.query(
    "update conversation_worker.personas set memory = '{}', delegates = '[]' where persona_id = 'assistant'",
  );
  const count = async (sql: string): Promise<number> => {
    const [row] = await database.query<{ n: string }>(sql);
    return Number(row?.n ?? Number.NaN);
  };
  const running = options.services;
  return {
    gatewayUrl: services.find(({ name }) => name === 'gateway')?.url ?? '',
    apiKey: seededKey(readFileSync(join(folder, 'parts.log'), 'utf8')),
    tenant: seededTenant,
    kafka: state.kafka.bootstrap,
    modelUrl: state.model.url,
    ownerUrl: state.postgres.ownerUrl,
    addresses: environment,
    pids: () => services.flatMap(({ child }) => (child.pid === undefined ? [] : [child.pid])),
    settle: () =>
      until('the outbox, the open turns and the index to be settled', 120_000, async () => {
        const outbox = await count('select count(*) n from messaging.outbox');
        const open = running.includes('conversation-worker')
          ? await count('select count(*) n from gateway.messages where ended_at is null')
          : 0;
        const unindexed = await count('select count(*) n from memory_replicator.to_index');
        return outbox + open + unindexed === 0;
      }),
    async acceptedRecords() {
      const admin = new Kafka({ brokers: [state.kafka.bootstrap], logLevel: logLevel.NOTHING }).admin();
      await admin.connect();
      const offsets = await admin.fetchTopicOffsets('conversation.inbound');
      await admin.disconnect();
      return offsets.reduce((sum, { high, low }) => sum + Number(high) - Number(low), 0);
    },
    async rowsWritten() {
      // Backends report their counts with up to a second's delay; an idle one reports at once.
      await new Promise((resolve) => setTimeout(resolve, 1_200));
      return count('select sum(n_tup_ins + n_tup_upd + n_tup_del) n from pg_stat_user_tables');
    },
    async modelFaults(fault) {
      const admin = state.model.url.replace(/\/v1$/, '');
      const empty = Object.keys(fault).length === 0;
      const response = await fetch(`${admin}/admin/faults`, {
        method: empty ? 'DELETE' : 'PUT',
        ...(empty ? {} : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(fault) }),
      });
      if (!response.ok) throw new Error(`the model stand-in answered ${response.status} to a fault order`);
    },
    async close() {
      await database.close();
      await Promise.all(services.map(({ child }) => endProcess(child)));
      await endProcess(parts);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

export interface Floor {
  url: string;
  pid: number;
  close(): Promise<void>;
}

/**
 * A floor runs only while it is measured: kafkajs without the product's patch wakes every millisecond, and an idle
 * floor would cost the product's runs some 3 % of a core each.
 */
export type StartFloor = () => Promise<Floor>;

/** Starts a floor's process and waits until it says that it serves. */
export async function startFloor(
  name: 'instant-server' | 'bare-hops' | 'each-message' | 'graphile-jobs',
  environment: Record<string, string>,
  onLine: (line: { event?: string; port?: number; id?: string; ms?: number }) => void = () => {},
): Promise<Floor> {
  const child = spawn(process.execPath, [join(root, 'bench/src/floors', `${name}.ts`)], {
    env: environmentWith(environment),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const started = Promise.withResolvers<number>();
  child.on('exit', (code) => started.reject(new Error(`floor ${name} ended with code ${code}`)));
  createInterface({ input: child.stdout }).on('line', (text) => {
    const line: { event?: string; port?: number; id?: string; ms?: number } = JSON.parse(text);
    if (line.event === 'service.started') started.resolve(line.port ?? 0);
    else onLine(line);
  });
  const port = await bounded(started.promise, 30_000, `floor ${name}`);
  return { url: `http://127.0.0.1:${port}`, pid: child.pid ?? -1, close: () => endProcess(child) };
}

function startProcess(
  entry: string,
  args: readonly string[],
  environment: Record<string, string>,
  logFile: string,
): ChildProcess {
  const log = openSync(logFile, 'a');
  return spawn(process.execPath, [join(root, entry), ...args], {
    cwd: root,
    env: environmentWith(environment),
    stdio: ['ignore', log, log],
  });
}

async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), 90_000);
  await ended;
  clearTimeout(timer);
}

/** The state file is whole once the parts are up; the seed is through once the banner was printed. */
async function waitForState(folder: string, parts: ChildProcess): Promise<StackState> {
  let state: StackState | undefined;
  await until('the embedded stack', 180_000, async () => {
    if (parts.exitCode !== null) throw new Error(`the parts ended:\n${tail(join(folder, 'parts.log'))}`);
    if (!readFileSync(join(folder, 'parts.log'), 'utf8').includes('sk_dev_')) return false;
    state = JSON.parse(readFileSync(join(folder, 'state.json'), 'utf8'));
    return true;
  });
  if (state === undefined) throw new Error('no state file');
  return state;
}

async function waitForPort(name: string, child: ChildProcess, logFile: string): Promise<string> {
  let port = 0;
  await until(`${name} to listen`, 30_000, async () => {
    if (child.exitCode !== null) throw new Error(`${name} ended:\n${tail(logFile)}`);
    port = Number(
      /"event":"(?:http\.listening|service\.started)".*?"port":(\d+)/.exec(
        readFileSync(logFile, 'utf8'),
      )?.[1],
    );
    return port > 0;
  });
  return `http://127.0.0.1:${port}`;
}

function waitForReady(name: string, url: string): Promise<void> {
  return until(`${name} to be ready`, 60_000, async () => {
    const response = await fetch(`${url}/ready`).catch(() => undefined);
    return response?.status === 200;
  });
}

/** Waits for a level; an error that names it past `limitMs`. */
export async function until(what: string, limitMs: number, reached: () => Promise<boolean>): Promise<void> {
  const endsAt = performance.now() + limitMs;
  while (!(await reached())) {
    if (performance.now() > endsAt) throw new Error(`waited ${limitMs} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const tail = (file: string): string => readFileSync(file, 'utf8').split('\n').slice(-30).join('\n');
