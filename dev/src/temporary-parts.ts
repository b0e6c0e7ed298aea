import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { lockHolder, takeLock } from './file-lock.ts';
import { startKeeper } from './keeper.ts';
import { endLeftovers } from './leftovers.ts';
import { jarsFolder, type PartName, type Parts, startParts } from './parts.ts';
import { noProgress, type Progress } from './progress.ts';

const prefix = 'signalbox-test-';
const root = join(import.meta.dirname, '..', '..');

export interface TemporaryParts extends Pick<Parts, 'addresses' | 'kill' | 'startAgain'> {
  /** Ends the parts and removes their folder. */
  close(): Promise<void>;
}

/** Removes the folders of test runs that were killed with all their helpers, and ends what still runs in them. */
async function sweepDeadRuns(parent: string): Promise<void> {
  const folders = (await readdir(parent)).filter((name) => name.startsWith(prefix));
  for (const name of folders) {
    const folder = join(parent, name);
    // No lock yet: another run has just made the folder.
    const owner = await readFile(join(folder, 'owner'), 'utf8').catch(() => undefined);
    if (owner === undefined || lockHolder(join(folder, 'owner')) !== undefined) continue;
    await endLeftovers(folder, noProgress);
    await rm(folder, { recursive: true, force: true });
  }
}

/**
 * Starts parts on any free ports in a folder of their own, which goes with them, also when this process is killed. A part
 * that dies stays dead until `startAgain`. With `durable` a killed one has its data then; else nothing is flushed.
 */
export async function startTemporaryParts(options: {
  readonly only: readonly PartName[];
  readonly durable?: boolean;
  readonly progress?: Progress;
}): Promise<TemporaryParts> {
  await sweepDeadRuns(tmpdir());
  const dataDir = await mkdtemp(join(tmpdir(), prefix));
  takeLock(join(dataDir, 'owner'));
  // As root, Postgres runs as another user and must be able to walk through.
  await chmod(dataDir, 0o711);
  const keeper = startKeeper(dataDir);
  try {
    const parts = await startParts({
      only: options.only,
      dataDir,
      jarsDir: jarsFolder(root),
      ephemeral: options.durable !== true,
      revive: false,
      ports: { kafka: 0, postgres: 0, redis: 0 },
      keeper,
      progress: options.progress ?? noProgress,
    });
    return {
      addresses: parts.addresses,
      kill: parts.kill,
      startAgain: parts.startAgain,
      async close() {
        await parts.stop();
        await rm(dataDir, { recursive: true, force: true });
        keeper.close();
      },
    };
  } catch (error) {
    await rm(dataDir, { recursive: true, force: true });
    keeper.close();
    throw error;
  }
}
