import { kill } from 'node:process';
import { PartProblem } from './part-problem.ts';
import { findProcess, listProcesses, type RunningProcess } from './process-list.ts';
import type { Progress } from './progress.ts';
import { waitUntil } from './wait-until.ts';

/** Programs of ours, so that an editor or a `tail` in the data folder is left alone. */
const ours = [
  { name: 'kafka', pattern: /\bkafka\.Kafka\b/, signal: 'SIGTERM' },
  { name: 'zipkin', pattern: /zipkin-server-\S+\.jar/, signal: 'SIGTERM' },
  { name: 'postgres', pattern: /\/bin\/postgres -D |^postgres: /, signal: 'SIGINT' },
  { name: 'redis', pattern: /^\S*redis-server\b/, signal: 'SIGTERM' },
] as const;

export interface Leftover {
  readonly pid: number;
  readonly name: string;
  readonly command: string;
  readonly signal: NodeJS.Signals;
}

/**
 * Parts that still hold a data folder: by their command line, which names it (Kafka, Zipkin, Postgres), or by their
 * working folder (Redis and Postgres' sessions write their own command line). A session outlives a killed postmaster by
 * what it is doing; a second server beside it would damage the data. A reused pid shows another command line.
 */
export function findLeftovers(dataDir: string, processes: readonly RunningProcess[]): Leftover[] {
  return processes.flatMap((each) => {
    const kind = ours.find(({ pattern }) => pattern.test(each.command));
    if (kind === undefined) return [];
    const holds = each.command.includes(`${dataDir}/`) || each.folder === `${dataDir}/${kind.name}`;
    return holds ? [{ pid: each.pid, name: kind.name, command: each.command, signal: kind.signal }] : [];
  });
}

function isGone({ pid, command }: Pick<Leftover, 'pid' | 'command'>): boolean {
  return findProcess(pid)?.command !== command;
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    kill(pid, signal);
  } catch {
    // It has just ended, or is another user's: the wait below tells which.
  }
}

/** Ends processes: their own way first, with -9 after `timeoutMs`; a PartProblem for one that cannot be ended. */
export async function endProcesses(
  leftovers: readonly Leftover[],
  progress: Progress,
  timeoutMs = 8_000,
): Promise<void> {
  for (const { pid, name, signal } of leftovers) {
    progress(`${name}: ending what an earlier run left behind (pid ${pid})`);
    send(pid, signal);
  }
  const deadline = performance.now() + timeoutMs;
  await waitUntil(() => performance.now() > deadline || leftovers.every(isGone), {
    label: 'leftovers',
    timeoutMs: timeoutMs + 1_000,
    intervalMs: 50,
  });
  for (const each of leftovers) if (!isGone(each)) send(each.pid, 'SIGKILL');
  for (const each of leftovers) {
    await waitUntil(() => isGone(each), { label: `${each.name} (pid ${each.pid})`, timeoutMs: 5_000 }).catch(
      () => {
        throw new PartProblem(
          `${each.name} of an earlier run (pid ${each.pid}) still runs and cannot be ended by this user`,
        );
      },
    );
  }
}

/** Ends every part that still holds the data folder. */
export async function endLeftovers(dataDir: string, progress: Progress): Promise<void> {
  const leftovers = findLeftovers(dataDir, listProcesses());
  if (leftovers.length > 0) await endProcesses(leftovers, progress);
}

/** Ends services of a run that was killed: by the pids it wrote down, when their command line is still that service's. */
export async function endLeftoverServices(
  services: Readonly<Record<string, { readonly pid: number }>>,
  root: string,
  progress: Progress,
): Promise<void> {
  const leftovers = Object.entries(services).flatMap(([name, { pid }]) => {
    const command = findProcess(pid)?.command;
    return command?.includes(`${root}/apps/${name}/src/main.ts`)
      ? [{ pid, name, command, signal: 'SIGTERM' as const }]
      : [];
  });
  if (leftovers.length > 0) await endProcesses(leftovers, progress);
}
