import { linkSync, readFileSync, renameSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { PartProblem } from './part-problem.ts';
import { findProcess } from './process-list.ts';

interface Holder {
  readonly pid: number;
  readonly command: string;
}

function readHolder(file: string): Holder | undefined {
  try {
    const [pid, ...command] = readFileSync(file, 'utf8').split('\n');
    return { pid: Number(pid), command: command.join('\n') };
  } catch {
    return undefined;
  }
}

/** A pid alone is not enough: after a reboot, or a kill -9 and a while, another program has it. */
function isAlive(holder: Holder): boolean {
  return findProcess(holder.pid)?.command === holder.command;
}

/**
 * Takes a dead holder's file away. Sequence answered: A and B read the dead holder; A takes its file away and makes its
 * own; B, late, takes A's away. B sees that it holds another's and puts it back.
 */
function moveAside(file: string, dead: Holder): void {
  const aside = `${file}.${process.pid}.dead`;
  try {
    renameSync(file, aside);
    if (readHolder(aside)?.pid !== dead.pid) linkSync(aside, file);
  } catch {
    // Somebody else was quicker: the next look tells.
  }
  rmSync(aside, { force: true });
}

/**
 * Takes the lock for this process; undefined when done, else the pid of the living process that holds it.
 * The file is made whole by link(2), which only one of several takers wins; a dead holder's lock is taken over.
 */
export function takeLock(file: string): number | undefined {
  const mine = `${file}.${process.pid}`;
  writeFileSync(mine, `${process.pid}\n${findProcess(process.pid)?.command ?? ''}`);
  try {
    for (let tries = 0; tries < 10; tries += 1) {
      try {
        linkSync(mine, file);
        return undefined;
      } catch {
        const holder = readHolder(file);
        if (holder === undefined) continue;
        if (holder.pid === process.pid || isAlive(holder)) return holder.pid;
        moveAside(file, holder);
      }
    }
    return readHolder(file)?.pid ?? 0;
  } finally {
    unlinkSync(mine);
  }
}

/** Gives the lock back; somebody else's stays. */
export function releaseLock(file: string): void {
  if (readHolder(file)?.pid === process.pid) unlinkSync(file);
}

/** Who holds the lock now, if a living process does. */
export function lockHolder(file: string): number | undefined {
  const holder = readHolder(file);
  return holder !== undefined && isAlive(holder) ? holder.pid : undefined;
}

/** One at a time over the processes of this machine, and over the callers in this one; waits at most `timeoutMs`. */
export async function withFileLock<T>(file: string, timeoutMs: number, work: () => Promise<T>): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  while (takeLock(file) !== undefined) {
    if (performance.now() > deadline)
      throw new PartProblem(`${file}: held by another process for ${timeoutMs / 1000} s`);
    await delay(100);
  }
  try {
    return await work();
  } finally {
    releaseLock(file);
  }
}
