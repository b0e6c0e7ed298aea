import { statSync } from 'node:fs';
import { dirname } from 'node:path';
import { getuid } from 'node:process';
import { PartProblem } from './part-problem.ts';
import { runProgram } from './part-process.ts';

export interface Identity {
  readonly uid: number;
  readonly gid: number;
}

/** How to run Postgres' programs: as whom, and through which program first. */
export interface PostgresRunner {
  readonly identity: Identity | undefined;
  readonly prefix: readonly string[];
}

async function lookUp(user: string): Promise<Identity | undefined> {
  const [uid, gid] = await Promise.all([runProgram('id', ['-u', user]), runProgram('id', ['-g', user])]);
  if (uid.code !== 0 || gid.code !== 0) return undefined;
  return { uid: Number(uid.output), gid: Number(gid.output) };
}

/** Postgres refuses to run as root. Its own user is taken where there is one, made where that can be, else nobody's. */
async function unprivileged(): Promise<Identity> {
  const existing = await lookUp('postgres');
  if (existing !== undefined) return existing;
  await runProgram('groupadd', ['--system', 'postgres']);
  await runProgram('useradd', ['--system', '-g', 'postgres', '-M', '-s', '/usr/sbin/nologin', 'postgres']);
  const made = (await lookUp('postgres')) ?? (await lookUp('nobody'));
  if (made === undefined) {
    throw new PartProblem(
      'Postgres does not run as root and no user was found to run it as: add one (useradd postgres), run as another user, or give DATABASE_URL',
    );
  }
  return made;
}

/** Whether `identity` may walk from the root folder down to `folder`. */
export function canReach(folder: string, identity: Identity): boolean {
  for (let each = folder; ; each = dirname(each)) {
    const { mode, uid, gid } = statSync(each);
    const bit = uid === identity.uid ? 0o100 : gid === identity.gid ? 0o010 : 0o001;
    if ((mode & bit) === 0) return false;
    if (each === dirname(each)) return true;
  }
}

/**
 * Keeps the one capability that lets an unprivileged user walk through folders such as /root (0700), where clones made
 * by root often lie. no_setuid_fixup: without it access(2), by which Postgres looks for its programs, does not count it.
 */
function throughClosedFolders({ uid, gid }: Identity): string[] {
  return [
    'setpriv',
    `--reuid=${uid}`,
    `--regid=${gid}`,
    '--clear-groups',
    '--inh-caps=+dac_override',
    '--ambient-caps=+dac_override',
    '--securebits=+no_setuid_fixup',
  ];
}

/** Decides how Postgres is run on this machine so that it can reach `folders`; a PartProblem when it cannot. */
export async function findPostgresRunner(folders: readonly string[]): Promise<PostgresRunner> {
  if (getuid?.() !== 0) return { identity: undefined, prefix: [] };
  const identity = await unprivileged();
  const closed = folders.find((folder) => !canReach(folder, identity));
  if (closed === undefined) return { identity, prefix: [] };
  const prefix = throughClosedFolders(identity);
  const [command = '', ...args] = prefix;
  const { code } = await runProgram(command, [...args, 'test', '-x', closed]);
  if (code === 0) return { identity: undefined, prefix };
  throw new PartProblem(
    `Postgres does not run as root, and the user it runs as cannot reach ${closed}: move the checkout out of closed folders, ` +
      'run as another user, or give DATABASE_URL',
  );
}

export async function ownerOf(runner: PostgresRunner): Promise<Identity | undefined> {
  if (runner.identity !== undefined) return runner.identity;
  return runner.prefix.length > 0 ? unprivileged() : undefined;
}
