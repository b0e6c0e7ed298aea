import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { inheritedEnvironment } from './environment.ts';
import { waitFor } from './wait.ts';

/** One line of a service's log: the fields that every record has, any other as it came. */
export interface LogRecord {
  readonly event: string;
  readonly level: string;
  readonly message: string;
  readonly [field: string]: unknown;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface LaunchedService {
  readonly name: string;
  readonly pid: number;
  readonly logs: readonly LogRecord[];
  /** Lines that were no log record (stderr, crashes). */
  readonly noise: readonly string[];
  readonly exited: Promise<Exit>;
  /** Undefined while it runs. */
  exit(): Exit | undefined;
  /** `http://127.0.0.1:port`, once the process told its port. Throws when it ends before. */
  listening(timeoutMs?: number): Promise<string>;
  /** The first log record of this event that satisfies the predicate, among those written and those to come. */
  log(event: string, matches?: (record: LogRecord) => boolean, timeoutMs?: number): Promise<LogRecord>;
  /** Sends the signal and returns at once: SIGKILL, SIGSTOP, SIGCONT, SIGTERM. */
  kill(signal: NodeJS.Signals): void;
  /** SIGTERM, then waits for the end. After `timeoutMs` (35 000) it is killed and this throws. */
  stop(timeoutMs?: number): Promise<Exit & { ms: number }>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface SpawnedService extends LaunchedService {
  readonly url: string;
  /** Waits until GET /ready answers 200. */
  ready(timeoutMs?: number): Promise<void>;
  /** A series of /metrics by name and (some) labels; undefined when it is not there. */
  metric(name: string, labels?: Record<string, string>): Promise<number | undefined>;
}

export interface SpawnOptions {
  /** Another file than apps/<name>/src/main.ts. */
  readonly entry?: URL;
  readonly args?: readonly string[];
  /** How long the process may take to listen. Default 20 000. */
  readonly timeoutMs?: number;
}

const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) {
    child.kill('SIGKILL'); // stops a stopped (SIGSTOP) child too
  }
});

/** Environment of every spawned service; the given one wins. Nothing else of the caller's environment goes in. */
const serviceDefaults = {
  ENVIRONMENT: 'dev',
  HOST: '127.0.0.1',
  PORT: '0',
  LOG_FORMAT: 'json',
  LOG_LEVEL: 'DEBUG',
  DRAIN_DELAY_MS: '0',
  LAST_SCRAPE_MS: '0',
};

/** Without a collector of its own a test must not send its spans to the embedded stack that happens to run. */
function quietTracing(env: Record<string, string>): Record<string, string> {
  return env.OTEL_EXPORTER_OTLP_ENDPOINT === undefined ? { TRACING_ENABLED: 'false' } : {};
}

/**
 * Starts a service as `npm start` does, on a free port, in a working folder of its own, and returns once it listens
 * (which is before it is ready). Coverage of the run is counted in it. It never outlives the test: it is killed when
 * disposed of, when the test process exits, and by itself when the test process was killed.
 */
export async function spawnService(
  name: string,
  env: Record<string, string>,
  options: SpawnOptions = {},
): Promise<SpawnedService> {
  const service = launchService(name, env, options);
  try {
    const url = await service.listening(options.timeoutMs ?? 20_000);
    return {
      ...service,
      url,
      ready: (timeoutMs = 20_000) => ready(service, url, timeoutMs),
      metric: (metricName, labels = {}) => readMetric(url, metricName, labels),
    };
  } catch (error) {
    await service[Symbol.asyncDispose]();
    throw error;
  }
}

/** Starts a service without waiting for anything: for those that are to refuse their start. */
export function launchService(
  name: string,
  env: Record<string, string>,
  options: SpawnOptions = {},
): LaunchedService {
  const entry = options.entry ?? new URL(`../../../apps/${name}/src/main.ts`, import.meta.url);
  const cwd = mkdtempSync(join(tmpdir(), `signalbox-${name}-`));
  const guard = new URL('./die-with-parent.ts', import.meta.url).href;
  const child = spawn(process.execPath, ['--import', guard, entry.pathname, ...(options.args ?? [])], {
    cwd,
    // What it leaves in the temporary folder when it is killed goes with its working folder.
    env: { ...inheritedEnvironment(), TMPDIR: cwd, ...serviceDefaults, ...quietTracing(env), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  const logs: LogRecord[] = [];
  const noise: string[] = [];
  createInterface({ input: child.stdout }).on('line', (line) => keep(line, logs, noise));
  createInterface({ input: child.stderr }).on('line', (line) => noise.push(line));
  let exit: Exit | undefined;
  const exited = new Promise<Exit>((resolve) => {
    const done = (code: number | null, signal: NodeJS.Signals | null) => {
      running.delete(child);
      rmSync(cwd, { recursive: true, force: true });
      exit = { code, signal };
      resolve(exit);
    };
    child.once('close', done);
    child.once('error', (error) => {
      noise.push(String(error));
      done(null, null);
    });
  });
  const log: LaunchedService['log'] = async (event, matches = () => true, timeoutMs = 15_000) => {
    const find = () => logs.find((record) => record.event === event && matches(record));
    const found = await waitFor(
      () => (exit === undefined ? find() : (find() ?? 'ended')),
      (record) => record !== undefined,
      { timeoutMs, label: `log ${event} of ${name}` },
    );
    if (typeof found !== 'object') {
      throw new Error(`${name} ended before it logged ${event}: ${told(logs, noise)}`);
    }
    return found;
  };
  const stop: LaunchedService['stop'] = async (timeoutMs = 35_000) => {
    const began = performance.now();
    child.kill('SIGTERM');
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), timeoutMs);
    });
    const end = await Promise.race([exited, late]);
    clearTimeout(timer);
    if (end === 'late') {
      child.kill('SIGKILL');
      await exited;
      throw new Error(`${name} did not stop in ${timeoutMs} ms: ${told(logs, noise)}`);
    }
    return { ...end, ms: performance.now() - began };
  };
  return {
    name,
    pid: child.pid ?? -1,
    logs,
    noise,
    exited,
    exit: () => exit,
    async listening(timeoutMs = 20_000) {
      const port = await waitFor(
        () => portIn(logs) ?? (exit === undefined ? undefined : 0),
        (value) => value !== undefined,
        { timeoutMs, label: `port of ${name}` },
      ).catch((error: unknown) => {
        throw new Error(`${name} did not listen: ${told(logs, noise)}`, { cause: error });
      });
      if (port === 0) {
        throw new Error(`${name} ended (${JSON.stringify(exit)}) before it listened: ${told(logs, noise)}`);
      }
      return `http://127.0.0.1:${port}`;
    },
    log,
    kill: (signal) => {
      child.kill(signal);
    },
    stop,
    async [Symbol.asyncDispose]() {
      if (exit === undefined) {
        child.kill('SIGCONT');
        await stop(10_000).catch(() => undefined);
      }
    },
  };
}

function keep(line: string, logs: LogRecord[], noise: string[]): void {
  try {
    const record: unknown = JSON.parse(line);
    if (isLogRecord(record)) {
      logs.push(record);
      return;
    }
  } catch {
    // not JSON: noise
  }
  noise.push(line);
}

function isLogRecord(record: unknown): record is LogRecord {
  return (
    typeof record === 'object' && record !== null && 'event' in record && typeof record.event === 'string'
  );
}

function portIn(logs: readonly LogRecord[]): number | undefined {
  const record = logs.find(
    ({ event, port }) => /^(service|http|server)\.(started|listening)$/.test(event) && Number(port) > 0,
  );
  return record === undefined ? undefined : Number(record.port);
}

function told(logs: readonly LogRecord[], noise: readonly string[]): string {
  return [...logs.slice(-15).map((record) => JSON.stringify(record)), ...noise.slice(-30)].join('\n');
}

async function ready(service: LaunchedService, url: string, timeoutMs: number): Promise<void> {
  try {
    await waitFor(
      async () => {
        const response = await fetch(`${url}/ready`, { signal: AbortSignal.timeout(2_000) });
        return { status: response.status, body: await response.text() };
      },
      ({ status }) => status === 200,
      { timeoutMs, intervalMs: 50, label: `${service.name} ready` },
    );
  } catch (error) {
    throw new Error(`${service.name} did not become ready: ${told(service.logs, service.noise)}`, {
      cause: error,
    });
  }
}

async function readMetric(
  url: string,
  name: string,
  labels: Record<string, string>,
): Promise<number | undefined> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return metricIn(text, name, labels);
}

/** The value of the first series in a Prometheus text that has the name and at least these labels. */
export function metricIn(
  text: string,
  name: string,
  labels: Record<string, string> = {},
): number | undefined {
  const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  for (const line of text.split('\n')) {
    const [, series, inside = '', value] = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line) ?? [];
    if (series === name && wanted.every((pair) => inside.includes(pair))) {
      return Number(value);
    }
  }
  return undefined;
}
