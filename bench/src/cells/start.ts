import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { environmentWith } from '@signalbox/config/process-environment';
import type { Cell, Reading } from '../cell.ts';
import type { BenchStack } from '../stack.ts';

const root = join(import.meta.dirname, '..', '..', '..');

/** B8: `npx nx serve gateway` to ready with the parts up; beside it the same source without nx, and node alone. */
export function startCell(options: { stack: BenchStack; pairs: number }): Cell {
  const { stack } = options;
  return {
    id: 'B8',
    title: 'gateway start to ready, parts up',
    pairs: options.pairs,
    settle: () => stack.settle(),
    variants: [
      {
        name: 'npx nx serve gateway',
        run: () => timeToReady('npx', ['nx', 'serve', 'gateway', '--outputStyle=stream'], stack.addresses),
      },
      {
        name: 'node main.ts',
        run: () => timeToReady(process.execPath, ['apps/gateway/src/main.ts'], stack.addresses),
      },
      { name: 'floor: node alone', run: runNodeAlone },
    ],
    aims: [{ figure: 'readyMs', bound: '<=', value: 1500 }],
  };
}

async function timeToReady(
  command: string,
  args: readonly string[],
  addresses: Record<string, string>,
): Promise<Reading> {
  const port = 20_000 + Math.floor(Math.random() * 20_000);
  const startedAt = performance.now();
  // A group of its own: nx runs the service as a grandchild, and both have to end.
  const child = spawn(command, args, {
    cwd: root,
    detached: true,
    stdio: 'ignore',
    env: environmentWith({ ...addresses, ENVIRONMENT: 'dev', PORT: String(port), NX_TUI: 'false' }),
  });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  let readyMs = Number.NaN;
  while (performance.now() - startedAt < 30_000) {
    const response = await fetch(`http://127.0.0.1:${port}/ready`).catch(() => undefined);
    if (response?.status === 200) {
      readyMs = performance.now() - startedAt;
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  if (child.pid !== undefined) process.kill(-child.pid, 'SIGTERM');
  await ended;
  return { figures: { readyMs }, faults: Number.isNaN(readyMs) ? ['not ready within 30 s'] : [] };
}

async function runNodeAlone(): Promise<Reading> {
  const startedAt = performance.now();
  await new Promise<void>((resolve) => spawn(process.execPath, ['-e', '0']).once('exit', () => resolve()));
  return { figures: { readyMs: performance.now() - startedAt }, faults: [] };
}
