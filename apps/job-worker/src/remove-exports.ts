import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isTenant } from '@signalbox/contracts/keys';

export interface RemoveExports {
  readonly folder: string;
  readonly ttlSeconds: number;
  /** What is past its time at this moment goes. */
  readonly at: Date;
  /** Files at most. */
  readonly limit: number;
  readonly signal: AbortSignal;
}

/** A link is made a moment after its file was finished. */
const marginMs = 60_000;
/** A run writes to its file all the time: one that nobody wrote to for so long belongs to no run. */
const unfinishedMs = 24 * 3_600_000;
const finishedForm = /^[0-9a-f-]{36}\.ndjson$/;
const unfinishedForm = /^\.[0-9a-f-]{36}\.\d+\.tmp$/;

/** Removes exports whose links have expired, and what runs that died left behind. Other files are left alone. */
export async function removeExports({
  folder,
  ttlSeconds,
  at,
  limit,
  signal,
}: RemoveExports): Promise<{ done: number; more: boolean }> {
  let done = 0;
  for (const tenant of await namesIn(folder)) {
    if (!isTenant(tenant)) continue;
    const ownFolder = join(folder, tenant);
    for (const name of await namesIn(ownFolder)) {
      signal.throwIfAborted();
      const keptMs = keptFor(name, ttlSeconds);
      if (keptMs === undefined || !(await isOlder(join(ownFolder, name), at.getTime() - keptMs))) continue;
      if (done >= limit) return { done, more: true };
      await rm(join(ownFolder, name), { force: true });
      done += 1;
    }
  }
  return { done, more: false };
}

function keptFor(name: string, ttlSeconds: number): number | undefined {
  if (finishedForm.test(name)) return ttlSeconds * 1_000 + marginMs;
  return unfinishedForm.test(name) ? unfinishedMs : undefined;
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

async function isOlder(path: string, beforeMs: number): Promise<boolean> {
  try {
    return (await stat(path)).mtimeMs < beforeMs;
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

function isGone(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR');
}
