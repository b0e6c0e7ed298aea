import type { Command } from 'commander';
import type { Streams } from './dlq.ts';

/** `signalbox memory …`: memories on their way to the memory backend, for operators. */
export function addMemoryCommands(program: Command, streams: Streams): void {
  const memory = program.command('memory').description('memories, as an operator (DATABASE_OWNER_URL)');

  memory
    .command('failed')
    .description('versions that the memory backend has not taken, or still waits for')
    .option('--tenant <tenant>', 'whose; all without it')
    .option('--state <state>', 'failed or waiting', 'failed')
    .option('--limit <count>', 'lines at most', '50')
    .action(async (options: { tenant?: string; state: string; limit: string }) => {
      const { listOpenMemories } = await import('./memory-pushes.ts');
      const limit = Number.parseInt(options.limit, 10);
      if (!(limit >= 1 && limit <= 10_000)) throw new Error('--limit takes a number from 1 to 10000');
      await listOpenMemories({ ...options, limit }, streams);
    });

  memory
    .command('requeue')
    .description('push failed ones again')
    .option('--tenant <tenant>', 'whose; all without it')
    .option('--id <memory_id>', 'only this memory of the tenant')
    .action(async (options: { tenant?: string; id?: string }) => {
      const { requeueMemories } = await import('./memory-pushes.ts');
      await requeueMemories(options, streams);
    });

  memory
    .command('rebuild')
    .description('make the replica again from memory.wal, beside the live one, then switch (DATABASE_URL)')
    .action(async () => {
      const { rebuildMemories } = await import('./memory-rebuild.ts');
      if (!(await rebuildMemories(streams))) process.exitCode = 1;
    });
}
