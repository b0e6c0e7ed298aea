import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { startKafka } from './kafka-part.ts';
import type { Keeper } from './keeper.ts';
import { endLeftovers } from './leftovers.ts';
import { type OtlpReceiver, startOtlpReceiver } from './otlp-receiver.ts';
import type { Part, PartSetting } from './part.ts';
import { PartProblem } from './part-problem.ts';
import { pickPort, releasePort } from './ports.ts';
import { startPostgres } from './postgres-part.ts';
import type { Progress } from './progress.ts';
import { startRedis } from './redis-part.ts';
import { startZipkin } from './zipkin-part.ts';

export type PartName = 'kafka' | 'postgres' | 'redis' | 'zipkin';

/** Ports tried first; the next free one is taken when another program has it. */
export const usualPorts = {
  kafka: 9092,
  postgres: 5432,
  redis: 6379,
  zipkin: 9411,
  otlp: 4318,
  model: 8090,
} as const;

export interface StartPartsOptions {
  /** Which parts; all when left out. */
  readonly only?: readonly PartName[];
  readonly dataDir: string;
  /** Fetched jars, kept over resets and shared by all data folders. */
  readonly jarsDir: string;
  /** One test run's: any free ports, nothing flushed to disk, a part that dies stays dead. */
  readonly ephemeral?: boolean;
  /** Whether a part that dies is started again; those of a lasting stack are. */
  readonly revive?: boolean;
  readonly ports?: Partial<Record<keyof typeof usualPorts, number>>;
  readonly keeper: Keeper;
  readonly progress: Progress;
  /** Aborts when the start is given up; what was started by then is ended before `startParts` rejects. */
  readonly signal?: AbortSignal;
  /** Zipkin is fetched and started after this: nobody waits for it, and its start costs as much as Kafka's. */
  readonly zipkinAfter?: Promise<unknown>;
  /** Called when a part was started again and may have another address or pid. */
  readonly onChange?: (addresses: PartAddresses) => void;
}

export interface PartAddresses {
  kafka?: { bootstrap: string; clusterId: string; pid: number };
  postgres?: { adminUrl: string; ownerUrl: string; url: string; pid: number };
  redis?: { url: string; pid: number };
  zipkin?: { url: string; pid: number };
  otlp?: { url: string };
}

export interface Parts {
  /** As they are now. */
  readonly addresses: PartAddresses;
  /** Resolves when Zipkin is up too (or was given up): nothing else waits for it. */
  readonly settled: Promise<void>;
  /** Kills a part as a crash would; for stacks that do not revive. Resolves when its process is gone. */
  kill(name: PartName): Promise<void>;
  /** Starts a killed part again on its port and its data, and waits until it answers. */
  startAgain(name: PartName): Promise<void>;
  /** Ends all parts, one after the other, Kafka last. */
  stop(): Promise<void>;
}

type Starter = (setting: PartSetting) => Promise<{ part: Part; address: PartAddresses }>;

const starters: Readonly<Record<PartName, Starter>> = {
  kafka: async (setting) => {
    const part = await startKafka(setting);
    const { bootstrap, clusterId, process } = part;
    return { part, address: { kafka: { bootstrap, clusterId, pid: process.pid } } };
  },
  postgres: async (setting) => {
    const part = await startPostgres(setting);
    const { adminUrl, ownerUrl, url, process } = part;
    return { part, address: { postgres: { adminUrl, ownerUrl, url, pid: process.pid } } };
  },
  redis: async (setting) => {
    const part = await startRedis(setting);
    return { part, address: { redis: { url: part.url, pid: part.process.pid } } };
  },
  zipkin: async (setting) => {
    const part = await startZipkin(setting);
    return { part, address: { zipkin: { url: part.url, pid: part.process.pid } } };
  },
};

const stopOrder: readonly PartName[] = ['zipkin', 'redis', 'postgres', 'kafka'];
const longestRestartDelayMs = 10_000;
const startAgainMs = 30_000;

interface Runner {
  readonly addresses: PartAddresses;
  start(name: PartName, port: number): Promise<void>;
  kill(name: PartName): Promise<void>;
  startAgain(name: PartName): Promise<void>;
  /** Ends all, also those that are being started again. */
  stop(): Promise<void>;
}

/** Starts parts one by one; in a lasting stack a part that dies is started again on its port, with growing pauses. */
function createRunner(options: StartPartsOptions, signal: AbortSignal): Runner {
  const { dataDir, jarsDir, keeper, progress, ephemeral = false } = options;
  const revive = options.revive ?? !ephemeral;
  const killedPorts = new Map<PartName, number>();
  const addresses: PartAddresses = {};
  const running = new Map<PartName, Part>();
  const restarts = new Map<PartName, Promise<void>>();

  const start = async (name: PartName, port: number): Promise<void> => {
    const startedAt = performance.now();
    const { part, address } = await starters[name]({
      dataDir,
      jarsDir,
      port,
      ephemeral,
      keeper,
      progress,
      signal,
    });
    running.set(name, part);
    Object.assign(addresses, address);
    progress(
      `${name}: ready on port ${part.port} (${((performance.now() - startedAt) / 1000).toFixed(1)} s)`,
    );
    if (!revive) return;
    void part.process.ended.then((sentence) => {
      if (!signal.aborted) restarts.set(name, restart(name, part.port, sentence));
    });
  };

  const restart = async (name: PartName, port: number, why: string): Promise<void> => {
    running.delete(name);
    let sentence = why;
    for (let waitMs = 500; !signal.aborted; waitMs = Math.min(waitMs * 2, longestRestartDelayMs)) {
      progress(`${name}: ${sentence}; starting it again in ${waitMs / 1000} s`);
      await delay(waitMs, undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      releasePort(port);
      try {
        await start(name, port);
        options.onChange?.(addresses);
        return;
      } catch (error) {
        sentence = error instanceof Error ? error.message : String(error);
      }
    }
  };

  return {
    addresses,
    start,
    async kill(name) {
      const part = running.get(name);
      if (part === undefined) return;
      running.delete(name);
      killedPorts.set(name, part.port);
      await part.process.kill();
      releasePort(part.port);
    },
    async startAgain(name) {
      const port = killedPorts.get(name);
      if (port === undefined) throw new PartProblem(`${name} was not killed`);
      const deadline = performance.now() + startAgainMs;
      for (;;) {
        try {
          await start(name, port);
          killedPorts.delete(name);
          return;
        } catch (error) {
          // The sessions of a killed Postgres hold its memory until they have noticed.
          if (signal.aborted || performance.now() > deadline) throw error;
          releasePort(port);
          await delay(200);
        }
      }
    },
    async stop() {
      await Promise.all(restarts.values());
      for (const name of stopOrder) {
        const part = running.get(name);
        if (part === undefined) continue;
        progress(`${name}: stopping`);
        // Zipkin takes its time to close and has nothing to keep.
        await part.process.stop(name === 'zipkin' ? 300 : undefined);
        releasePort(part.port);
      }
    },
  };
}

/** Resolves when `work` has, rejects when the signal aborts first. */
async function unlessAborted(work: Promise<unknown>, signal: AbortSignal): Promise<void> {
  const aborted = new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  signal.throwIfAborted();
  await Promise.race([work, aborted]);
  signal.throwIfAborted();
}

/**
 * Starts the parts side by side and resolves when Kafka, Postgres and Redis answer. What an earlier run left behind in
 * the data folder is ended first. Zipkin follows; spans wait for it in the translator.
 */
export async function startParts(options: StartPartsOptions): Promise<Parts> {
  const { dataDir, progress, ephemeral = false } = options;
  const names = options.only ?? stopOrder;
  const port = (name: keyof typeof usualPorts) => options.ports?.[name] ?? (ephemeral ? 0 : usualPorts[name]);
  mkdirSync(dataDir, { recursive: true });
  await endLeftovers(dataDir, progress);

  /** Ends waits for parts that are coming up. */
  const over = new AbortController();
  const signal = options.signal === undefined ? over.signal : AbortSignal.any([over.signal, options.signal]);
  const runner = createRunner(options, signal);
  const needed = names.filter((name) => name !== 'zipkin').map((name) => runner.start(name, port(name)));
  // The first that fails ends the waits of the others.
  for (const each of needed) each.catch((error: unknown) => over.abort(error));

  let otlp: OtlpReceiver | undefined;
  const stop = async (): Promise<void> => {
    over.abort(new PartProblem('the stack is stopping'));
    // A part that is just coming up is waited for, or it would be left behind.
    await Promise.allSettled([...needed, settled]);
    await otlp?.close();
    await runner.stop();
  };
  const followWithZipkin = async (): Promise<void> => {
    try {
      await unlessAborted(
        Promise.allSettled(needed).then(() => options.zipkinAfter),
        signal,
      );
      await runner.start('zipkin', port('zipkin'));
      options.onChange?.(runner.addresses);
    } catch (error) {
      if (!signal.aborted)
        progress(`zipkin: traces are not shown: ${error instanceof Error ? error.message : error}`);
    }
  };
  const settled = names.includes('zipkin') ? followWithZipkin() : Promise.resolve();
  try {
    if (names.includes('zipkin')) {
      const zipkinUrl = () => runner.addresses.zipkin?.url;
      otlp = await startOtlpReceiver({ port: await pickPort(port('otlp')), zipkinUrl });
      runner.addresses.otlp = { url: otlp.url };
    }
    await Promise.all(needed);
  } catch (error) {
    await stop();
    throw error;
  }
  const { addresses, kill, startAgain } = runner;
  return { addresses, settled, kill, startAgain, stop };
}

/** Where the jars of this checkout are kept. */
export function jarsFolder(root: string): string {
  return join(root, '.data', 'jars');
}
