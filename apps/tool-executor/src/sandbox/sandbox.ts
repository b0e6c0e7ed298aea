import { type ChildProcess, type IOType, type StdioOptions, spawn } from 'node:child_process';
import { openSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { createFrameReader, type FrameType, type SandboxCall } from './child-protocol.ts';
import { inheritedDescriptors } from './inherited-descriptors.ts';
import { readUsage, usageIntervalMs } from './process-usage.ts';
import { type CallLimits, judgeEnding, type Killed, type Verdict } from './verdict.ts';

export interface SandboxOptions {
  /** URL of the module whose `tools` the child has. */
  readonly toolsModule: string;
  /** Folder for compiled sources, shared by the children of one pool. */
  readonly cacheFolder: string;
  /** The child's working folder: its own, and empty. */
  readonly workFolder: string;
  readonly cpuSeconds: number;
  readonly memoryMb: number;
}

const childModule = new URL('./child.ts', import.meta.url).href;
/** Loads the child through the cache of stripped sources. Plain JavaScript, since it comes before there is a loader. */
const boot = `require('node:module').enableCompileCache(process.argv[1]);import(process.argv[2])`;
/**
 * Soft limit: SIGXCPU. Hard limit a second later: SIGKILL, for a child that handles the first. No core files. `env -i`
 * takes away what the shell itself adds (PWD, SHLVL).
 */
const limited = 'ulimit -c 0; ulimit -S -t "$1"; ulimit -H -t "$2"; shift 2; exec /usr/bin/env -i "$@"';
const errorTextCharacters = 8_192;
/** Room for the frame headers, which are not output. */
const headerBytes = 1_024;
/** Of what a child writes past the protocol so much is kept; also what it may write while it has no call. */
const keptBytes = 262_144;
/** What an idle runtime takes, where it cannot be read. */
const runtimeRssBytes = 64 * 1_048_576;

type State =
  | { readonly name: 'starting' }
  | { readonly name: 'idle' }
  | {
      readonly name: 'busy';
      readonly limits: CallLimits;
      readonly resolve: (verdict: Verdict) => void;
      readonly onProgress: ((text: string) => void) | undefined;
    }
  | { readonly name: 'over' };

/**
 * A child process for one call: starting → idle → busy → over, and over from each of them. It is a process group of its
 * own with an empty environment, its own working folder and no descriptors but its pipes, under `ulimit` for CPU time
 * and V8's bound for the heap. Wall time, resident memory and output are watched from here, and end the whole group.
 */
export class Sandbox {
  readonly pid: number;
  /** Resolves when the child waits for its call; rejects when it ended instead. */
  readonly ready: Promise<void>;
  /** Resolves when the process is gone. */
  readonly gone: Promise<void>;
  readonly #child: ChildProcess;
  readonly #frames = createFrameReader((type, payload) => this.#onFrame(type, payload));
  readonly #ready = Promise.withResolvers<void>();
  #state: State = { name: 'starting' };
  #killed: Killed | undefined;
  #baseRssBytes = runtimeRssBytes;
  #cpuSeconds = 0;
  #written = 0;
  #errorText = '';
  #stdout = Buffer.alloc(0);

  constructor(options: SandboxOptions) {
    const { cpuSeconds, memoryMb, cacheFolder, toolsModule, workFolder } = options;
    const node = [process.execPath, `--max-old-space-size=${memoryMb}`, '-e', boot];
    const shell = ['-c', limited, 'sandbox', String(cpuSeconds), String(cpuSeconds + 1)];
    this.#child = spawn('/bin/sh', [...shell, ...node, cacheFolder, childModule, toolsModule], {
      cwd: workFolder,
      env: {},
      stdio: descriptors(),
      detached: true,
    });
    this.pid = this.#child.pid ?? -1;
    this.ready = this.#ready.promise;
    this.ready.catch(() => undefined); // a child that is killed before anybody asked is no unhandled rejection
    this.gone = new Promise((resolve) => {
      this.#child.once('close', (code, signal) => resolve(this.#onEnd(code, signal)));
      this.#child.once('error', (error) => {
        this.#errorText = String(error);
        resolve(this.#onEnd(null, null));
      });
    });
    this.#listen();
  }

  /** Runs the call and ends the process. Whatever happens to it is a verdict; throws only when the child is not idle. */
  async run(call: SandboxCall, limits: CallLimits, onProgress?: (text: string) => void): Promise<Verdict> {
    if (this.#state.name !== 'idle') {
      throw new Error(`a sandbox that is ${this.#state.name} cannot take a call`);
    }
    const { promise, resolve } = Promise.withResolvers<Verdict>();
    this.#state = { name: 'busy', limits, resolve, onProgress };
    this.#written = 0;
    const wall = setTimeout(() => this.#kill('wall_limit'), limits.wallMs);
    const watch = setInterval(() => this.#look(limits), usageIntervalMs);
    this.#child.stdin?.write(`${JSON.stringify(call)}\n`);
    const verdict = await promise;
    clearTimeout(wall);
    clearInterval(watch);
    return verdict;
  }

  /** Whether the child can take a call now. */
  get idle(): boolean {
    return this.#state.name === 'idle';
  }

  /** Whether a call is in it that has no verdict yet. */
  get busy(): boolean {
    return this.#state.name === 'busy';
  }

  kill(): void {
    this.#kill('stop');
  }

  #listen(): void {
    pipeOf(this.#child, 3)?.on('data', (chunk: Buffer) => {
      try {
        this.#frames.take(chunk);
        this.#count(chunk.length);
      } catch {
        this.#kill('protocol');
      }
    });
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      this.#count(chunk.length);
      this.#stdout = Buffer.concat([
        this.#stdout,
        chunk.subarray(0, Math.max(keptBytes - this.#stdout.length, 0)),
      ]);
    });
    this.#child.stderr?.on('data', (chunk: Buffer) => {
      this.#count(chunk.length);
      this.#errorText = (this.#errorText + chunk.toString('utf8')).slice(-errorTextCharacters);
    });
    this.#child.stdin?.on('error', () => undefined); // the child ended before it read its call: its end tells
  }

  #onFrame(type: FrameType, payload: Buffer): void {
    const state = this.#state;
    if (type === 'ready' && state.name === 'starting') {
      this.#state = { name: 'idle' };
      void readUsage(this.pid).then((usage) => {
        this.#baseRssBytes = usage?.rssBytes ?? runtimeRssBytes;
      });
      this.#ready.resolve();
    } else if (type === 'progress' && state.name === 'busy') {
      state.onProgress?.(payload.toString('utf8'));
    } else if (type === 'done' && state.name === 'busy') {
      this.#finish(
        payload.length > state.limits.outputBytes
          ? this.#judge({ ...state, killed: 'output_limit', output: payload })
          : { outcome: 'ok', output: payload.toString('utf8'), truncated: false },
      );
    } else if (type === 'failed' && state.name === 'busy') {
      this.#finish({ outcome: 'error', output: '', truncated: false, message: payload.toString('utf8') });
    }
  }

  /** Counts what the child writes; over the limit it is killed, and what came so far is its output. */
  #count(bytes: number): void {
    this.#written += bytes;
    const { outputBytes } = this.#state.name === 'busy' ? this.#state.limits : { outputBytes: keptBytes };
    if (this.#written > outputBytes + headerBytes) {
      this.#kill('output_limit');
    }
  }

  async #look(limits: CallLimits): Promise<void> {
    const usage = await readUsage(this.pid);
    if (usage === undefined) {
      return;
    }
    this.#cpuSeconds = usage.cpuSeconds;
    if (usage.rssBytes > this.#baseRssBytes + limits.memoryMb * 1_048_576) {
      this.#kill('memory_limit');
    }
  }

  #onEnd(code: number | null, signal: NodeJS.Signals | null): void {
    const how = `${signal ?? `code ${code}`}${this.#errorText === '' ? '' : `: ${this.#errorText.trim()}`}`;
    this.#ready.reject(new Error(`a sandbox ended before it was ready (${how})`));
    if (this.#state.name === 'busy') {
      const partial = this.#frames.partial();
      const output = partial?.type === 'done' ? partial.payload : this.#stdout;
      this.#finish(this.#judge({ ...this.#state, killed: this.#killed, output, code, signal }));
    }
    this.#state = { name: 'over' };
  }

  #judge(end: {
    limits: CallLimits;
    killed: Killed | undefined;
    output: Buffer;
    code?: number | null;
    signal?: NodeJS.Signals | null;
  }): Verdict {
    const { limits, killed, output, code = null, signal = null } = end;
    // A decoder that expects more leaves out a character that the cut went through.
    const text = new TextDecoder().decode(output.subarray(0, limits.outputBytes), { stream: true });
    const ending = { killed, code, signal, errorText: this.#errorText, cpuSeconds: this.#cpuSeconds };
    return judgeEnding({ ...ending, output: text }, limits);
  }

  #finish(verdict: Verdict): void {
    if (this.#state.name === 'busy') {
      this.#state.resolve(verdict);
    }
    this.#state = { name: 'over' };
    this.#kill('stop'); // whatever the tool left running in its group goes too
  }

  #kill(why: Killed): void {
    this.#killed ??= why;
    try {
      process.kill(-this.pid, 'SIGKILL');
    } catch {
      this.#child.kill('SIGKILL'); // the group is not there yet, or not any more
    }
  }
}

const nothing = openSync('/dev/null', 'r+');

/** Input, output, error output, frames; whatever else would be inherited becomes /dev/null. */
function descriptors(): StdioOptions {
  const all: (IOType | number)[] = ['pipe', 'pipe', 'pipe', 'pipe'];
  for (const fd of inheritedDescriptors()) {
    while (all.length < fd) {
      all.push('ignore');
    }
    all[fd] = nothing;
  }
  return all;
}

function pipeOf(child: ChildProcess, descriptor: number): Readable | undefined {
  const pipe = child.stdio[descriptor];
  return pipe !== undefined && pipe !== null && 'read' in pipe ? pipe : undefined;
}
