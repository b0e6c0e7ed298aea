import { readVariable, setVariable } from '@signalbox/config/process-environment';
import type { TestProject } from 'vitest/node';
import { startTemporaryParts } from './temporary-parts.ts';

/** Which variable names which part; a part whose variable is set is not started. */
const variables = {
  kafka: 'KAFKA_BOOTSTRAP_SERVERS',
  postgres: 'DATABASE_OWNER_URL',
  redis: 'REDIS_URL',
} as const;

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
  const startedAt = performance.now();
  const parts = await startTemporaryParts({ only: names, progress: report });
  const { kafka, postgres, redis } = parts.addresses;
  if (kafka !== undefined) setVariable(variables.kafka, kafka.bootstrap);
  if (postgres !== undefined) setVariable(variables.postgres, postgres.adminUrl);
  if (redis !== undefined) setVariable(variables.redis, redis.url);
  report(
    `${names.join(', ')} started for this run in ${((performance.now() - startedAt) / 1000).toFixed(1)} s`,
  );
  return async () => {
    await parts.close();
    for (const name of names) setVariable(variables[name], undefined);
  };
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
