import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { environmentWith } from '@signalbox/config/process-environment';
import type { Keeper } from './keeper.ts';
import { PartProblem } from './part-problem.ts';
import type { Progress } from './progress.ts';
import { type WaitOptions, waitUntil } from './wait-until.ts';

export interface PartCommand {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly folder: string;
  /** Its output is appended here. */
  readonly logFile: string;
  readonly stopSignal: 'SIGTERM' | 'SIGINT';
  readonly environment?: Readonly<Record<string, string>>;
  readonly identity?: { readonly uid: number; readonly gid: number };
}

export interface PartProcess {
  readonly pid: number;
  /** Resolves with a sentence when the process has ended, for whatever reason. */
  readonly ended: Promise<string>;
  /** Rejects when the process ends before `stop` was called; for waiting on its start. */
  readonly failed: Promise<never>;
  /** Sends the stop signal, waits at most `timeoutMs`, then kills. Resolves when the process is gone. */
  stop(timeoutMs?: number): Promise<void>;
  /** Kills it as a crash would. Resolves when the process is gone. */
  kill(): Promise<void>;
}

function lastLines(file: string, count: number): string {
  try {
    return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-count).join('\n');
  } catch {
    return '';
  }
}

function waitForEnd(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(`could not be started: ${error.message}`));
    child.once('exit', (code, signal) =>
      resolve(signal === null ? `ended with code ${code}` : `was ended by ${signal}`),
    );
  });
}

/**
 * Starts a part in a process group of its own, so that a Ctrl-C at the terminal reaches only us and the parts end in
 * our order. Its output goes to a file, not through us: it goes on writing when we are gone.
 */
export function spawnPart(part: PartCommand, keeper: Keeper): PartProcess {
  mkdirSync(dirname(part.logFile), { recursive: true });
  const log = openSync(part.logFile, 'a');
  const child = spawn(part.command, part.args, {
    cwd: part.folder,
    stdio: ['ignore', log, log],
    detached: true,
    env: environmentWith(part.environment ?? {}),
    ...part.identity,
  });
  closeSync(log);
  const { pid } = child;
  let stopping = false;
  const ended = waitForEnd(child).then((sentence) => {
    if (pid !== undefined) keeper.forget(pid);
    return sentence;
  });
  if (pid !== undefined) keeper.watch(pid, part.stopSignal);
  const failed = ended.then((sentence) => {
    if (stopping) return new Promise<never>(() => {});
    throw new PartProblem(
      `${part.name} ${sentence}; the end of ${part.logFile}:\n${lastLines(part.logFile, 8)}`,
    );
  });
  // Who waits for the start looks at it; later nobody has to.
  failed.catch(() => {});
  return {
    pid: pid ?? 0,
    ended,
    failed,
    async stop(timeoutMs = 15_000) {
      stopping = true;
      if (pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
      child.kill(part.stopSignal);
      const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
      await ended;
      clearTimeout(timer);
    },
    async kill() {
      stopping = true;
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/** Waits for a part's start; one that does not come up is ended before the error is passed on. */
export async function whenUp(
  part: PartProcess,
  ready: () => Promise<boolean> | boolean,
  options: Omit<WaitOptions, 'failure'>,
): Promise<void> {
  try {
    await waitUntil(ready, { ...options, failure: part.failed });
  } catch (error) {
    await part.stop(5_000);
    throw error;
  }
}

export interface RunResult {
  readonly code: number;
  readonly output: string;
}

/** Runs a program to its end. `onLine` gets each line of its output; a missing program is code 127. */
export function runProgram(
  command: string,
  args: readonly string[],
  options: {
    readonly folder?: string;
    readonly identity?: { readonly uid: number; readonly gid: number } | undefined;
    readonly input?: string;
    readonly timeoutMs?: number;
    readonly environment?: Readonly<Record<string, string | undefined>>;
    readonly onLine?: Progress;
    /** Kills the program. */
    readonly signal?: AbortSignal | undefined;
  } = {},
): Promise<RunResult> {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: options.folder,
      stdio: ['pipe', 'pipe', 'pipe'],
      env: environmentWith(options.environment ?? {}),
      ...options.identity,
    });
    const lines: string[] = [];
    let rest = '';
    const take = (chunk: string) => {
      const parts = (rest + chunk).split('\n');
      rest = parts.pop() ?? '';
      for (const line of parts) {
        options.onLine?.(line);
        lines.push(line);
        // A long run keeps its end, which is where the error stands.
        if (lines.length > 2_000) lines.shift();
      }
    };
    child.stdout.setEncoding('utf8').on('data', take);
    child.stderr.setEncoding('utf8').on('data', take);
    const timer = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs ?? 60_000);
    const kill = () => child.kill('SIGKILL');
    options.signal?.addEventListener('abort', kill, { once: true });
    const finish = (code: number) => {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', kill);
      if (rest !== '') lines.push(rest);
      resolve({ code, output: lines.join('\n') });
    };
    child.once('error', () => finish(127));
    child.once('close', (code) => finish(code ?? 1));
    child.stdin.on('error', () => {});
    child.stdin.end(options.input ?? '');
  });
}
