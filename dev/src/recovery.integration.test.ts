import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { chmod } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { environmentWith } from '@signalbox/config/process-environment';
import { openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { findLeftovers } from './leftovers.ts';
import { findProcess, listProcesses } from './process-list.ts';
import { type StackState, stateFile } from './state-file.ts';
import { waitUntil } from './wait-until.ts';

let dataDir: string;
let output = '';
let running: ChildProcess | undefined;

beforeAll(async () => {
  dataDir = mkdtempSync(join(tmpdir(), 'recovery-'));
  await chmod(dataDir, 0o711);
});
afterAll(() => {
  running?.kill('SIGKILL');
  rmSync(dataDir, { recursive: true, force: true });
});

/** Starts the parts as `npm run infra` does, in a folder of this test; no Zipkin, which only takes time here. */
async function startInfra(): Promise<StackState> {
  rmSync(stateFile(dataDir), { force: true });
  const ports = ['kafka', 'postgres', 'redis', 'model'].flatMap((name) => [`--port-${name}`, '0']);
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, 'infra.ts'), '--data-dir', dataDir, ...ports],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: environmentWith({
        KAFKA_BOOTSTRAP_SERVERS: undefined,
        DATABASE_URL: undefined,
        DATABASE_OWNER_URL: undefined,
        REDIS_URL: undefined,
        OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1',
      }),
    },
  );
  running = child;
  output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk));
  const died = new Promise<never>((_, reject) => child.once('exit', () => reject(new Error(output))));
  await waitUntil(() => output.includes('The parts are up'), {
    label: 'infra',
    timeoutMs: 40_000,
    failure: died,
  });
  const state: StackState = JSON.parse(readFileSync(stateFile(dataDir), 'utf8'));
  return state;
}

function pidsOf(state: StackState): { owner: number[]; parts: number[] } {
  const parts = [state.kafka?.pid, state.postgres?.pid, state.redis?.pid].filter((pid) => pid !== undefined);
  return { owner: [state.keeper.pid, state.pid], parts };
}

async function killAll(pids: readonly number[]): Promise<void> {
  for (const pid of pids) process.kill(pid, 'SIGKILL');
  await waitUntil(() => pids.every((pid) => findProcess(pid) === undefined), {
    label: 'kill -9',
    timeoutMs: 5_000,
  });
}

async function query(state: StackState, sql: string): Promise<unknown[]> {
  const database = openDatabase({
    url: state.postgres?.ownerUrl ?? '',
    poolSize: 1,
    maxOverflow: 0,
    poolTimeoutMs: 5_000,
    poolRecycleMs: 60_000,
    applicationName: 'test',
    log: silentLog,
    metrics: silentMetrics,
  });
  try {
    return await database.query(sql);
  } finally {
    await database.close();
  }
}

function redis(state: StackState, command: string): Promise<string> {
  const { port } = new URL(state.redis?.url ?? '');
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), '127.0.0.1', () => socket.write(`${command}\r\n`));
    socket.once('error', reject);
    socket.once('data', (data) => {
      socket.destroy();
      resolve(data.toString());
    });
  });
}

test('the stack comes back with its data after kill -9 of everything, and after kill -9 of all but the parts', async () => {
  const first = await startInfra();
  await query(first, 'create table kept (n int); insert into kept values (7)');
  expect(await redis(first, 'SET kept 7')).toContain('OK');
  // Redis writes its file every second.
  await waitUntil(async () => (await redis(first, 'INFO persistence')).includes('aof_pending_bio_fsync:0'), {
    label: 'aof',
    timeoutMs: 3_000,
  });

  const all = pidsOf(first);
  await killAll([...all.owner, ...all.parts]);
  const second = await startInfra();
  expect(second.kafka?.clusterId).toBe(first.kafka?.clusterId);
  expect(await query(second, 'select n from kept')).toEqual([{ n: 7 }]);
  expect(await redis(second, 'GET kept')).toContain('7');

  // The parts live on and hold the folder; whoever starts next ends them first.
  const { owner, parts } = pidsOf(second);
  await killAll(owner);
  expect(parts.every((pid) => findProcess(pid) !== undefined)).toBe(true);
  const third = await startInfra();
  expect(output).toContain('ending what an earlier run left behind');
  expect(parts.every((pid) => findProcess(pid) === undefined)).toBe(true);
  expect(await query(third, 'select n from kept')).toEqual([{ n: 7 }]);

  // And an orderly end leaves nothing.
  const ended = new Promise((resolve) => running?.once('exit', resolve));
  process.kill(third.pid, 'SIGTERM');
  expect(await ended).toBe(0);
  expect(findLeftovers(dataDir, listProcesses())).toEqual([]);
  expect(existsSync(stateFile(dataDir))).toBe(false);
  await waitUntil(() => findProcess(third.keeper.pid) === undefined, { label: 'keeper', timeoutMs: 3_000 });
}, 60_000);
