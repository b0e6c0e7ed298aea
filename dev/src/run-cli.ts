import { join } from 'node:path';
import { PartProblem } from './part-problem.ts';
import { type RunResult, runProgram } from './part-process.ts';
import type { Progress } from './progress.ts';

/** Runs `signalbox <args>` to its end, from source. */
export function runCli(
  root: string,
  args: readonly string[],
  options: {
    readonly environment?: Readonly<Record<string, string | undefined>>;
    readonly onLine?: Progress;
    readonly signal?: AbortSignal;
    readonly timeoutMs?: number;
  } = {},
): Promise<RunResult> {
  return runProgram(process.execPath, [join(root, 'apps', 'cli', 'src', 'main.ts'), ...args], {
    folder: root,
    timeoutMs: 120_000,
    ...options,
  });
}

/** Brings tables and topics to this version. @throws PartProblem with the output of a migration that failed. */
export async function migrateStack(
  root: string,
  environment: Readonly<Record<string, string | undefined>>,
  progress: Progress,
  signal: AbortSignal,
): Promise<void> {
  const startedAt = performance.now();
  const { code, output } = await runCli(root, ['migrate'], { environment, signal });
  signal.throwIfAborted();
  if (code !== 0) throw new PartProblem(`signalbox migrate failed with code ${code}:\n${output.trim()}`);
  progress(
    `migrate: tables and topics are up to date (${((performance.now() - startedAt) / 1_000).toFixed(1)} s)`,
  );
}
