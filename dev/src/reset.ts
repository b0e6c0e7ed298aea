import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { projectRoot } from '@signalbox/config/sources';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { lockHolder } from './file-lock.ts';
import { endLeftoverServices, endLeftovers } from './leftovers.ts';
import { PartProblem } from './part-problem.ts';
import { type Progress, printProgress } from './progress.ts';
import { parseStackArguments } from './stack-settings.ts';
import { readServices } from './state-file.ts';
import { terminalLog } from './terminal-log.ts';

/** Fetched jars are no data: they stay. */
const kept = new Set(['jars']);

/** Empties the data folder. @throws PartProblem while a stack runs with it. */
export async function resetData(dataDir: string, progress: Progress): Promise<void> {
  const holder = lockHolder(join(dataDir, 'stack.lock'));
  if (holder !== undefined)
    throw new PartProblem(`the stack runs (pid ${holder}): stop it first, nothing was deleted`);
  await endLeftoverServices(readServices(dataDir), projectRoot, progress);
  await endLeftovers(dataDir, progress);
  const names = await readdir(dataDir).catch(() => []);
  for (const name of names) {
    if (!kept.has(name)) await rm(join(dataDir, name), { recursive: true, force: true });
  }
  progress(`reset: ${dataDir} is empty (fetched jars stay)`);
}

if (import.meta.main) {
  await runMain(async (lifecycle) => {
    const progress = printProgress();
    lifecycle.configure({
      drainDelayMs: 0,
      stopTimeoutMs: 5_000,
      log: { ...terminalLog(progress), info: () => {} },
    });
    await resetData(parseStackArguments(process.argv.slice(2)).dataDir, progress);
    await lifecycle.stop('done');
  });
}
