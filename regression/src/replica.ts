import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import type { TestInfra } from '@signalbox/testkit/infra';
import { type Exit, type LogRecord, type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { type PartName, partNames } from './parts.ts';

export type ServiceName =
  | 'gateway'
  | 'conversation-worker'
  | 'tool-executor'
  | 'outbox-sync'
  | 'memory-sync'
  | 'memory-replicator'
  | 'delegation-gateway'
  | 'delegation-worker'
  | 'job-worker';

/** `blackhole`: nothing passes and nobody is told, as behind a dead switch. `refuse`: resets and refusals. */
export type Cut = 'blackhole' | 'refuse';

/** One process of a service, and those that took its place: the proxies stay, the port does not. */
export interface Replica {
  readonly service: ServiceName;
  /** `gateway-1`. */
  readonly name: string;
  /** Of the process that runs now, or ran last. */
  readonly process: SpawnedService;
  readonly url: string;
  readonly running: boolean;
  /** Log records of all its processes. */
  readonly logs: readonly LogRecord[];
  /** The first log record of the present process that fits, among those written and those to come. */
  log(event: string, matches?: (record: LogRecord) => boolean, timeoutMs?: number): Promise<LogRecord>;
  metric(name: string, labels?: Record<string, string>): Promise<number | undefined>;
  /** Starts it, with settings on top of the cluster's; resolves when it listens. It must not be running. */
  start(settings?: Record<string, string>): Promise<void>;
  /** Waits until /ready answers 200. */
  ready(timeoutMs?: number): Promise<void>;
  /** Sends a signal and returns at once. */
  kill(signal: NodeJS.Signals): void;
  /** Waits until the present process has ended. */
  gone(timeoutMs?: number): Promise<Exit>;
  /** Waits until a fail point has stopped or killed it. */
  atFailPoint(timeoutMs?: number): Promise<void>;
  /** Kills what runs, starts anew and waits until it is ready. */
  restart(settings?: Record<string, string>): Promise<void>;
  /** SIGTERM; resolves when it has ended, with the time that took. */
  stop(timeoutMs?: number): Promise<Exit & { ms: number }>;
  /** Cuts this replica off from one part alone. Needs a cluster with proxies. */
  cut(part: PartName, how?: Cut): Promise<void>;
  /** Ends the cuts, all when no part is named. */
  heal(part?: PartName): Promise<void>;
  readonly proxies: Readonly<Partial<Record<PartName, FaultProxy>>>;
  close(): Promise<void>;
}

export interface ReplicaOptions {
  readonly service: ServiceName;
  readonly name: string;
  readonly entry?: URL;
  readonly infra: TestInfra;
  readonly databaseUrl: string;
  readonly proxied: boolean;
  readonly settings: Readonly<Record<string, string>>;
}

/** Eight processes and more share the machine with their clients. */
const startMs = 60_000;

export async function createReplica(options: ReplicaOptions): Promise<Replica> {
  const { service, name, infra, databaseUrl } = options;
  const [host = '', port = ''] = infra.kafka.split(':');
  const proxies: Partial<Record<PartName, FaultProxy>> = options.proxied
    ? {
        kafka: await startFaultProxy({ host, port: Number(port), kafka: true }),
        postgres: await startFaultProxy({ url: databaseUrl }),
        redis: await startFaultProxy({ url: infra.redisUrl }),
      }
    : {};
  const addresses = {
    KAFKA_BOOTSTRAP_SERVERS: proxies.kafka?.address ?? infra.kafka,
    DATABASE_URL: proxies.postgres?.url ?? databaseUrl,
    REDIS_URL: proxies.redis?.url ?? infra.redisUrl,
  };
  const lives: SpawnedService[] = [];
  const present = (): SpawnedService => {
    const last = lives.at(-1);
    if (last === undefined) throw new Error(`${name} was never started`);
    return last;
  };
  const proxyTo = (part: PartName): FaultProxy => {
    const proxy = proxies[part];
    if (proxy === undefined) throw new Error('startCluster({ proxies: true }) to cut a replica off');
    return proxy;
  };
  const isRunning = () => lives.at(-1)?.exit() === undefined && lives.length > 0;

  const replica: Replica = {
    service,
    name,
    proxies,
    get process() {
      return present();
    },
    get url() {
      return present().url;
    },
    get running() {
      return isRunning();
    },
    get logs() {
      return lives.flatMap(({ logs }) => logs);
    },
    log: (event, matches, timeoutMs) => present().log(event, matches, timeoutMs),
    metric: (metricName, labels) => present().metric(metricName, labels),
    async start(settings = {}) {
      if (isRunning()) throw new Error(`${name} runs already`);
      const env = { ...addresses, ...options.settings, ...settings };
      lives.push(
        await spawnService(service, env, {
          timeoutMs: startMs,
          ...(options.entry === undefined ? {} : { entry: options.entry }),
        }),
      );
    },
    ready: (timeoutMs) => present().ready(timeoutMs),
    kill: (signal) => present().kill(signal),
    async gone(timeoutMs = 15_000) {
      return await waitFor(
        () => present().exit(),
        (exit): exit is Exit => exit !== undefined,
        { timeoutMs, label: `the end of ${name}` },
      );
    },
    async atFailPoint(timeoutMs = 30_000) {
      await waitFor(
        () => present().logs.some(({ event }) => event === 'fail_point.reached'),
        (reached) => reached,
        { timeoutMs, label: `the fail point of ${name}` },
      );
    },
    async restart(settings) {
      if (isRunning()) {
        replica.kill('SIGKILL');
        await replica.gone();
      }
      await replica.start(settings);
      await replica.ready();
    },
    stop: (timeoutMs) => present().stop(timeoutMs),
    async cut(part, how = 'blackhole') {
      const proxy = proxyTo(part);
      if (how === 'refuse') await proxy.refuse();
      else proxy.blackhole();
    },
    async heal(part) {
      for (const each of part === undefined ? partNames : [part]) await proxies[each]?.heal();
    },
    async close() {
      // A stopped one could not end by SIGTERM; a test is over, so nothing is waited for.
      if (isRunning()) present().kill('SIGKILL');
      if (lives.length > 0) await present().exited;
      for (const proxy of Object.values(proxies)) await proxy.close();
    },
  };
  return replica;
}
