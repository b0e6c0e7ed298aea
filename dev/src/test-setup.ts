import { rmSync } from 'node:fs';
import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readVariable, setVariable } from '@signalbox/config/process-environment';
import type { TestProject } from 'vitest/node';
import { lockHolder, takeLock } from './file-lock.ts';
import { type Keeper, startKeeper } from './keeper.ts';
import { endLeftovers } from './leftovers.ts';
import { jarsFolder, type PartName, type Parts, startParts } from './parts.ts';
import { noProgress, type Progress } from './progress.ts';

const prefix = 'signalbox-test-';
const root = join(import.meta.dirname, '..', '..');

/** Which variable names which part; a part whose variable is set is not started. */
const variables = {
  kafka: 'KAFKA_BOOTSTRAP_SERVERS',
  postgres: 'DATABASE_OWNER_URL',
  redis: 'REDIS_URL',
} as const;

/** Removes the folders of test runs that were killed with all their helpers, and ends what still runs in them. */
export async function sweepDeadRuns(parent: string, progress: Progress): Promise<void> {
  const folders = (await readdir(parent)).filter((name) => name.startsWith(prefix));
  for (const name of folders) {
    const folder = join(parent, name);
    // No lock yet: another run has just made the folder.
    const owner = await readFile(join(folder, 'owner'), 'utf8').catch(() => undefined);
    if (owner === undefined || lockHolder(join(folder, 'owner')) !== undefined) continue;
    await endLeftovers(folder, progress);
    await rm(folder, { recursive: true, force: true });
  }
}

interface Run {
  users: number;
  readonly started: Promise<() => Promise<void>>;
}

/** Vitest calls the setup once a project; the parts are the process's. Kept globally: each project loads its own copy of this module. */
const holder: { signalboxTestRun?: Run } & typeof globalThis = globalThis;

function report(line: string): void {
  process.stdout.write(`parts | ${line}\n`);
}

async function startRun(): Promise<() => Promise<void>> {
  const names = (Object.keys(variables) as (keyof typeof variables)[]).filter(
    (name) => readVariable(variables[name]) === undefined,
  );
  if (names.length === 0 || readVariable('SIGNALBOX_TEST_PARTS') === 'none') return async () => {};
  await sweepDeadRuns(tmpdir(), noProgress);
  const dataDir = await mkdtemp(join(tmpdir(), prefix));
  takeLock(join(dataDir, 'owner'));
  // As root, Postgres runs as another user and must be able to walk through.
  await chmod(dataDir, 0o711);
  const keeper = startKeeper(dataDir);
  const startedAt = performance.now();
  const parts = await startTestParts(names, dataDir, keeper);
  const { kafka, postgres, redis } = parts.addresses;
  if (kafka !== undefined) setVariable(variables.kafka, kafka.bootstrap);
  if (postgres !== undefined) setVariable(variables.postgres, postgres.adminUrl);
  if (redis !== undefined) setVariable(variables.redis, redis.url);
  report(
    `${names.join(', ')} started for this run in ${((performance.now() - startedAt) / 1000).toFixed(1)} s`,
  );
  return async () => {
    await parts.stop();
    for (const name of names) setVariable(variables[name], undefined);
    rmSync(dataDir, { recursive: true, force: true });
    keeper.close();
  };
}

async function startTestParts(only: readonly PartName[], dataDir: string, keeper: Keeper): Promise<Parts> {
  try {
    return await startParts({
      only,
      dataDir,
      jarsDir: jarsFolder(root),
      ephemeral: true,
      keeper,
      progress: report,
    });
  } catch (error) {
    await rm(dataDir, { recursive: true, force: true });
    keeper.close();
    throw error;
  }
}

/**
 * Vitest's global setup: a broker, a database and a cache for this test run, where the environment names none.
 * Workers find them in KAFKA_BOOTSTRAP_SERVERS, DATABASE_OWNER_URL and REDIS_URL. SIGNALBOX_TEST_PARTS=none starts nothing.
 */
export default async function setup(_project: TestProject): Promise<() => Promise<void>> {
  holder.signalboxTestRun ??= { users: 0, started: startRun() };
  const run = holder.signalboxTestRun;
  run.users += 1;
  const end = await run.started;
  return async () => {
    run.users -= 1;
    if (run.users > 0) return;
    delete holder.signalboxTestRun;
    await end();
  };
}
