import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { kill } from 'node:process';

export interface RunningProcess {
  readonly pid: number;
  /** Program and arguments, separated by blanks. */
  readonly command: string;
  /** Working folder, where the system tells it. */
  readonly folder: string | undefined;
}

function read(pid: number): RunningProcess | undefined {
  try {
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
    // A dead process that its parent has not collected yet has an empty command line.
    if (command === '') return undefined;
    let folder: string | undefined;
    try {
      folder = readlinkSync(`/proc/${pid}/cwd`);
    } catch {
      folder = undefined;
    }
    return { pid, command, folder };
  } catch {
    return undefined;
  }
}

function fromProc(): RunningProcess[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((name) => read(Number(name)))
    .filter((each) => each !== undefined);
}

function fromPs(): RunningProcess[] {
  const { stdout } = spawnSync('ps', ['-axww', '-o', 'pid=,command='], {
    encoding: 'utf8',
    maxBuffer: 16 << 20,
  });
  return (stdout ?? '').split('\n').flatMap((line) => {
    const match = /^\s*(\d+)\s+(.*)$/.exec(line);
    return match?.[1] === undefined || match[2] === undefined
      ? []
      : [{ pid: Number(match[1]), command: match[2], folder: undefined }];
  });
}

/** Every process that one may see. Linux's /proc, `ps` elsewhere (slim images have no `ps`). */
export function listProcesses(): RunningProcess[] {
  return existsSync('/proc/self/cmdline') ? fromProc() : fromPs();
}

/** Whether the system knows the pid at all, a dead process that was not collected included. */
export function isTaken(pid: number): boolean {
  try {
    kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

/** What runs under this pid; undefined when nothing does, or only a dead process that was not collected. */
export function findProcess(pid: number): RunningProcess | undefined {
  return existsSync('/proc/self/cmdline') ? read(pid) : fromPs().find((each) => each.pid === pid);
}
