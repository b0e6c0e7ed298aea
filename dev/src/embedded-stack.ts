import { mkdirSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import type { Lifecycle } from '@signalbox/lifecycle/lifecycle';
import { startModelSimulator } from '../simulators/model/server.ts';
import { releaseLock, takeLock } from './file-lock.ts';
import { type Keeper, startKeeper } from './keeper.ts';
import { endLeftoverServices } from './leftovers.ts';
import { PartProblem } from './part-problem.ts';
import {
  jarsFolder,
  type PartAddresses,
  type PartName,
  type Parts,
  startParts,
  usualPorts,
} from './parts.ts';
import { pickPort } from './ports.ts';
import type { Progress } from './progress.ts';
import { type Given, givesModel, type StackArguments } from './stack-settings.ts';
import { readServices, removeState, type Service, type StackState, writeState } from './state-file.ts';

export interface EmbeddedStack {
  readonly state: StackState;
  readonly keeper: Keeper;
  /** Resolves when Zipkin is up too, or was given up. */
  readonly settled: Promise<void>;
  /** Writes a service into the state file, or takes it out. */
  setService(name: string, service: Service | undefined): void;
}

export interface EmbeddedStackOptions {
  readonly root: string;
  readonly arguments: StackArguments;
  readonly given: Given;
  readonly progress: Progress;
  readonly lifecycle: Lifecycle;
  /** Zipkin is started after this. */
  readonly zipkinAfter?: Promise<unknown>;
}

/** What the given addresses leave to be started. */
function partsToStart(given: Given): PartName[] {
  const parts: PartName[] = [];
  if (given.kafkaBootstrapServers === undefined) parts.push('kafka');
  if (given.databaseUrl === undefined) parts.push('postgres');
  if (given.redisUrl === undefined) parts.push('redis');
  if (given.otlpEndpoint === undefined) parts.push('zipkin');
  return parts;
}

function givenAddresses(given: Given): Partial<StackState> {
  const { kafkaBootstrapServers, databaseUrl, databaseOwnerUrl, redisUrl, otlpEndpoint, modelBaseUrl } =
    given;
  return {
    ...(kafkaBootstrapServers === undefined ? {} : { kafka: { bootstrap: kafkaBootstrapServers } }),
    ...(databaseUrl === undefined
      ? {}
      : { postgres: { url: databaseUrl, ownerUrl: databaseOwnerUrl ?? databaseUrl } }),
    ...(redisUrl === undefined ? {} : { redis: { url: redisUrl } }),
    ...(otlpEndpoint === undefined ? {} : { otlp: { url: otlpEndpoint } }),
    ...(modelBaseUrl === undefined ? {} : { model: { url: modelBaseUrl } }),
  };
}

function applyAddresses(state: StackState, { kafka, postgres, redis, zipkin, otlp }: PartAddresses): void {
  if (kafka !== undefined) state.kafka = { ...kafka };
  if (postgres !== undefined)
    state.postgres = { ownerUrl: postgres.ownerUrl, url: postgres.url, pid: postgres.pid };
  if (redis !== undefined) state.redis = { ...redis };
  if (zipkin !== undefined) state.zipkin = { ...zipkin };
  if (otlp !== undefined) state.otlp = { ...otlp };
}

function claim(dataDir: string): string {
  const lock = join(dataDir, 'stack.lock');
  const holder = takeLock(lock);
  if (holder === undefined) return lock;
  throw new PartProblem(
    `the stack already runs with this data folder (pid ${holder}): stop that one first (Ctrl-C, or kill ${holder})`,
  );
}

/**
 * Starts the parts that were not given and the stand-in model, and keeps the state file true. Everything it starts is
 * ended by the lifecycle, after the services, also when the start is cut short.
 */
export async function startEmbeddedStack(options: EmbeddedStackOptions): Promise<EmbeddedStack> {
  const { root, given, progress, lifecycle } = options;
  const { ports } = options.arguments;
  const dataDir = isAbsolute(options.arguments.dataDir)
    ? options.arguments.dataDir
    : resolve(options.arguments.dataDir);
  mkdirSync(dataDir, { recursive: true });
  const lock = claim(dataDir);
  const keeper = startKeeper();

  let starting: Promise<Parts> | undefined;
  lifecycle.onStop({
    name: 'parts',
    phase: 'pools',
    timeoutMs: 70_000,
    run: async () => {
      const parts = await starting?.catch(() => undefined);
      await parts?.stop();
      removeState(dataDir);
      releaseLock(lock);
      keeper.close();
    },
  });

  await endLeftoverServices(readServices(dataDir), root, progress);
  const state: StackState = {
    startedAt: new Date().toISOString(),
    pid: process.pid,
    keeper: { pid: keeper.pid },
    services: {},
    ...givenAddresses(given),
  };
  const update = (addresses: PartAddresses) => {
    applyAddresses(state, addresses);
    if (!lifecycle.stopEvent.aborted) writeState(dataDir, state);
  };
  starting = startParts({
    only: partsToStart(given),
    dataDir,
    jarsDir: jarsFolder(root),
    ports,
    keeper,
    progress,
    signal: lifecycle.stopEvent,
    onChange: update,
    ...(options.zipkinAfter === undefined ? {} : { zipkinAfter: options.zipkinAfter }),
  });
  if (!givesModel(given)) {
    const simulator = await startModelSimulator({ port: await pickPort(ports.model ?? usualPorts.model) });
    state.model = { url: simulator.url };
    lifecycle.onStop({ name: 'stand-in model', phase: 'clients', run: () => simulator.close() });
  }
  const parts = await starting;
  update(parts.addresses);
  return {
    state,
    keeper,
    settled: parts.settled,
    setService(name, service) {
      if (service === undefined) delete state.services[name];
      else state.services[name] = service;
      if (!lifecycle.stopEvent.aborted) writeState(dataDir, state);
    },
  };
}
