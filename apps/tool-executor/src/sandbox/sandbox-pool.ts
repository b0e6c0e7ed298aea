import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { SandboxCall } from './child-protocol.ts';
import { Sandbox } from './sandbox.ts';
import type { CallLimits, Verdict } from './verdict.ts';

export interface SandboxPoolOptions {
  /** Calls at once; more wait for a free place. */
  readonly size: number;
  /** Children kept ready for calls to come. Each takes about 40 MB; without one a call waits for a start (30 ms). */
  readonly warm: number;
  readonly toolsModule: string;
  readonly cpuSeconds: number;
  readonly memoryMb: number;
  /** Told when a child could not be started; the pool tries again with growing pauses. */
  readonly onStartFailed?: (error: unknown) => void;
}

export interface SandboxPoolStats {
  readonly size: number;
  readonly busy: number;
  readonly warm: number;
  readonly queued: number;
  readonly completed: number;
  readonly failed: number;
  /** The last start failed: calls wait. */
  readonly stuck: boolean;
}

const startTimeoutMs = 10_000;
const restPauseMs = 25;
/** Half of the cores, one at least. */
const maxStarts = Math.max(1, Math.floor(availableParallelism() / 2));
const maxStartPauseMs = 5_000;

/**
 * Children that wait for calls, so that starting one is not part of a call's time. Each serves one call and is gone. A
 * used child is replaced a moment after its call, not during it: a start costs the machine 30 ms that the turn waits for.
 */
export class SandboxPool {
  readonly #options: SandboxPoolOptions;
  readonly #idle: Sandbox[] = [];
  readonly #all = new Set<Sandbox>();
  readonly #waiting: { give: (sandbox: Sandbox) => void; refuse: (error: Error) => void }[] = [];
  #folder: Promise<string> | undefined;
  #starting = 0;
  #startPauseMs = 0;
  #busy = 0;
  #completed = 0;
  #failed = 0;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: SandboxPoolOptions) {
    this.#options = options;
    this.#fill();
  }

  stats(): SandboxPoolStats {
    return {
      size: this.#options.size,
      busy: this.#busy,
      warm: this.#idle.length,
      queued: this.#waiting.length,
      completed: this.#completed,
      failed: this.#failed,
      stuck: this.#startPauseMs > 0,
    };
  }

  /**
   * Runs the call in a child of its own. The wall limit counts from when a child has it. Rejects when `signal` aborts
   * before there is a verdict (the child is killed) or the pool is closed; everything else is a verdict.
   */
  async run(
    call: SandboxCall,
    limits: CallLimits,
    { signal, onProgress }: { signal?: AbortSignal; onProgress?: (text: string) => void } = {},
  ): Promise<Verdict> {
    signal?.throwIfAborted();
    const sandbox = await this.#take(signal);
    let stopped = false;
    const stop = () => {
      stopped = sandbox.busy; // a verdict that came first stands: the call has had its effect
      sandbox.kill();
    };
    signal?.addEventListener('abort', stop, { once: true });
    this.#busy += 1;
    try {
      const verdict = await sandbox.run(call, limits, onProgress);
      if (stopped) {
        signal?.throwIfAborted();
      }
      if (verdict.outcome === 'ok') {
        this.#completed += 1;
      } else {
        this.#failed += 1;
      }
      return verdict;
    } finally {
      signal?.removeEventListener('abort', stop);
      this.#busy -= 1;
      this.#fillSoon();
    }
  }

  /** Kills every child, waits until they are gone and removes their folders. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    for (const { refuse } of this.#waiting.splice(0)) {
      refuse(new Error('the sandbox pool is closed'));
    }
    const all = [...this.#all];
    for (const sandbox of all) {
      sandbox.kill();
    }
    await Promise.all(all.map((sandbox) => sandbox.gone));
    if (this.#folder !== undefined) {
      await rm(await this.#folder, { recursive: true, force: true });
    }
  }

  #take(signal: AbortSignal | undefined): Promise<Sandbox> {
    if (this.#closed) {
      return Promise.reject(new Error('the sandbox pool is closed'));
    }
    for (let warm = this.#idle.shift(); warm !== undefined; warm = this.#idle.shift()) {
      if (warm.idle) {
        return Promise.resolve(warm);
      }
    }
    const { promise, resolve, reject } = Promise.withResolvers<Sandbox>();
    const place = { give: resolve, refuse: reject };
    this.#waiting.push(place);
    signal?.addEventListener('abort', () => {
      const at = this.#waiting.indexOf(place);
      if (at >= 0) {
        this.#waiting.splice(at, 1);
        reject(signal.reason);
      }
    });
    this.#fill();
    return promise;
  }

  #fillSoon(): void {
    if (this.#closed || this.#timer !== undefined) {
      return; // a pause under way is not begun anew: calls without end would put the start off without end
    }
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        this.#fill();
      },
      Math.max(restPauseMs, this.#startPauseMs),
    );
  }

  /**
   * Starts what is missing: for the calls that wait first, then the warm ones. Few at once: starts share the cores, so
   * with many of them all would be ready late instead of the first one soon.
   */
  #fill(): void {
    const wanted = this.#waiting.length + this.#options.warm - this.#idle.length - this.#starting;
    const room = maxStarts - this.#starting;
    for (let missing = this.#closed ? 0 : Math.min(wanted, room); missing > 0; missing -= 1) {
      this.#starting += 1;
      void this.#start().finally(() => {
        this.#starting -= 1;
        if (this.#startPauseMs > 0) {
          this.#fillSoon();
        } else {
          this.#fill();
        }
      });
    }
  }

  async #start(): Promise<void> {
    let sandbox: Sandbox | undefined;
    try {
      sandbox = await this.#spawn();
      await readyWithin(sandbox, startTimeoutMs);
      this.#startPauseMs = 0;
      this.#offer(sandbox);
    } catch (error) {
      sandbox?.kill();
      if (!this.#closed) {
        this.#startPauseMs = Math.min(Math.max(this.#startPauseMs * 2, 100), maxStartPauseMs);
        this.#options.onStartFailed?.(error);
      }
    }
  }

  async #spawn(): Promise<Sandbox> {
    this.#folder ??= mkdtemp(join(tmpdir(), 'signalbox-sandbox-'));
    const folder = await this.#folder;
    const workFolder = await mkdtemp(join(folder, 'call-'));
    const { toolsModule, cpuSeconds, memoryMb } = this.#options;
    const sandbox = new Sandbox({
      toolsModule,
      cpuSeconds,
      memoryMb,
      workFolder,
      cacheFolder: join(folder, 'compiled'),
    });
    this.#all.add(sandbox);
    void sandbox.gone.then(async () => {
      this.#all.delete(sandbox);
      await rm(workFolder, { recursive: true, force: true });
      if (this.#idle.includes(sandbox)) {
        this.#idle.splice(this.#idle.indexOf(sandbox), 1);
        this.#fillSoon(); // a child that somebody else killed while it waited
      }
    });
    if (this.#closed) {
      sandbox.kill();
    }
    return sandbox;
  }

  #offer(sandbox: Sandbox): void {
    const first = this.#waiting.shift();
    if (first !== undefined) {
      first.give(sandbox);
    } else if (this.#closed) {
      sandbox.kill();
    } else {
      this.#idle.push(sandbox);
    }
  }
}

async function readyWithin(sandbox: Sandbox, timeoutMs: number): Promise<void> {
  const timer = setTimeout(() => sandbox.kill(), timeoutMs);
  try {
    await sandbox.ready;
  } finally {
    clearTimeout(timer);
  }
}
