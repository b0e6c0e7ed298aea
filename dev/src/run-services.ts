import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, mkdirSync, type WriteStream } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { environmentWith } from '@signalbox/config/process-environment';
import type { Keeper } from './keeper.ts';
import { pickPort } from './ports.ts';
import type { Progress } from './progress.ts';
import type { Service } from './state-file.ts';

export interface ServiceRunOptions {
  readonly name: string;
  readonly root: string;
  readonly logDir: string;
  /** First port to try. */
  readonly port: number;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly keeper: Keeper;
  readonly progress: Progress;
  onChange(service: Service | undefined): void;
}

export interface RunningService {
  readonly name: string;
  readonly url: string;
  /** Asks it to stop and waits for its own drain; kills it past `timeoutMs`. */
  stop(timeoutMs: number): Promise<void>;
}

const shortestRestartMs = 500;
const longestRestartMs = 15_000;
/** A service that ran for this long has started well: the next crash is a new story. */
const settledMs = 30_000;
/** What a service exits with when its settings are wrong: starting it again would change nothing. */
const badConfiguration = 64;

const widest = 'conversation-worker'.length;
const colours = [36, 33, 35, 32, 34];
let coloursUsed = 0;

/** Passes a child's output on, each line with its name, and keeps it as it is in a file. */
function showOutput(child: ChildProcess, name: string, colour: string, log: WriteStream): void {
  for (const stream of [child.stdout, child.stderr]) {
    if (stream === null) continue;
    createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY }).on('line', (line) => {
      log.write(`${line}\n`);
      process.stdout.write(`${colour}${name.padEnd(widest)} |${colour === '' ? '' : '\u001b[0m'} ${line}\n`);
    });
  }
}

/**
 * Runs a service from its source as a child process of its own group, and starts it again when it ends by itself, with
 * growing pauses.
 */
export async function runService(options: ServiceRunOptions): Promise<RunningService> {
  const { name, root, keeper, progress } = options;
  const port = await pickPort(options.port);
  const url = `http://127.0.0.1:${port}`;
  const main = join(root, 'apps', name, 'src', 'main.ts');
  mkdirSync(options.logDir, { recursive: true });
  const log = createWriteStream(join(options.logDir, `${name}.log`), { flags: 'a' });
  const colour = process.stdout.isTTY ? `\u001b[${colours[coloursUsed++ % colours.length]}m` : '';
  const stopping = new AbortController();
  let child: ChildProcess | undefined;

  const runOnce = async (): Promise<string> => {
    const started = spawn(process.execPath, [main], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      env: environmentWith({
        // A third of a start is compiling what did not change. Node checks each entry against its source and its own
        // version, and goes without where the folder cannot be written.
        NODE_COMPILE_CACHE: join(root, 'node_modules', '.cache', 'node-compile'),
        ...options.environment,
        PORT: String(port),
      }),
    });
    child = started;
    const { pid } = started;
    if (pid !== undefined) {
      keeper.watch(pid, 'SIGTERM');
      options.onChange({ url, pid });
    }
    showOutput(started, name, colour, log);
    const sentence = await new Promise<string>((resolve) => {
      started.once('error', (error) => resolve(error.message));
      started.once('exit', (code, signal) =>
        resolve(signal === null ? `ended with code ${code}` : `was ended by ${signal}`),
      );
    });
    if (pid !== undefined) keeper.forget(pid);
    return sentence;
  };

  const keepRunning = async (): Promise<void> => {
    let pauseMs = shortestRestartMs;
    while (!stopping.signal.aborted) {
      const startedAt = performance.now();
      const sentence = await runOnce();
      if (stopping.signal.aborted) return;
      options.onChange(undefined);
      if (child?.exitCode === badConfiguration) {
        progress(`${name}: ${sentence}: its settings are wrong, it is left stopped`);
        return;
      }
      if (performance.now() - startedAt > settledMs) pauseMs = shortestRestartMs;
      progress(`${name}: ${sentence}, starting it again in ${pauseMs / 1_000} s`);
      await delay(pauseMs, undefined, { signal: stopping.signal }).catch(() => {});
      pauseMs = Math.min(pauseMs * 2, longestRestartMs);
    }
  };
  const over = keepRunning();

  return {
    name,
    url,
    async stop(timeoutMs) {
      stopping.abort();
      child?.kill('SIGTERM');
      const timer = setTimeout(() => child?.kill('SIGKILL'), timeoutMs);
      await over;
      clearTimeout(timer);
      options.onChange(undefined);
      await new Promise<void>((resolve) => log.end(resolve));
    },
  };
}

/** Waits until a service says that it is ready; the reason why not when it does not within `timeoutMs`. */
export async function waitReady(
  service: RunningService,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<string | undefined> {
  const deadline = performance.now() + timeoutMs;
  let reason = 'it does not answer';
  while (!signal.aborted && performance.now() < deadline) {
    try {
      const reply = await fetch(`${service.url}/ready`, { signal: AbortSignal.timeout(2_000) });
      const body = await reply.text();
      if (reply.ok) return undefined;
      reason = body.slice(0, 300);
    } catch {
      reason = 'it does not answer';
    }
    await delay(50);
  }
  return reason;
}
