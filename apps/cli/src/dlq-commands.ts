import type { Command } from 'commander';
import type { Streams, Whose } from './dlq.ts';

/** `signalbox dlq …`: dead letters over the database, for operators. Tenants reach theirs through the gateway. */
export function addDlqCommands(program: Command, streams: Streams): void {
  const dlq = program
    .command('dlq')
    .description('dead letters, as an operator (DATABASE_OWNER_URL); tenants reach theirs over /v1/dlq');
  const owned = (name: string, description: string) =>
    dlq
      .command(name)
      .description(description)
      .option('--tenant <tenant>', 'whose')
      .option('--unknown', 'those that name no tenant, or two');

  owned('list', 'what waits of whom; with --tenant or --unknown theirs, newest first')
    .argument('[topic]', 'only of this topic')
    .option('--state <state>', 'waiting, replayed or all', 'waiting')
    .option('--limit <count>', 'lines at most', '50')
    .option('--before <id>', 'those put aside before this one')
    .action(async (topic: string | undefined, options: Whose & ListOptions) => {
      const { listDeadLetters } = await import('./dlq.ts');
      const limit = Number.parseInt(options.limit, 10);
      if (!(limit >= 1 && limit <= 10_000)) throw new Error('--limit takes a number from 1 to 10000');
      await listDeadLetters({ ...options, ...(topic === undefined ? {} : { topic }), limit }, streams);
    });

  owned('show', 'one whole, with its value')
    .argument('<id>')
    .option('--value', 'the bytes of its value and nothing else')
    .action(async (id: string, options: Whose & { value?: true }) => {
      const { showDeadLetter } = await import('./dlq.ts');
      await showDeadLetter(id, options, streams);
    });

  owned('replay', 'send one again, at the end of its session, as a new event')
    .argument('<id>')
    .option('--value <file>', 'JSON file with the corrected value, - for stdin')
    .option('--event-type <type>', 'corrected event type')
    .option('--key <key>', 'tenant:id, where the key of the record cannot be used')
    .action(async (id: string, options: Whose & { value?: string; eventType?: string; key?: string }) => {
      const { replayDeadLetter } = await import('./dlq.ts');
      await replayDeadLetter(id, options, streams);
    });

  owned('purge', 'delete one, or with --topic and --older-than all that are older')
    .argument('[id]')
    .option('--topic <topic>')
    .option('--older-than <age>', '30m, 12h, 7d')
    .action(async (id: string | undefined, options: Whose & { topic?: string; olderThan?: string }) => {
      const { purgeDeadLetter, purgeOlder } = await import('./dlq.ts');
      const { topic, olderThan } = options;
      if (id !== undefined && topic === undefined && olderThan === undefined) {
        return await purgeDeadLetter(id, options, streams);
      }
      if (id === undefined && topic !== undefined && olderThan !== undefined) {
        return await purgeOlder({ ...options, topic, olderThan }, streams);
      }
      throw new Error('purge takes an id, or --topic and --older-than');
    });
}

interface ListOptions {
  readonly state: string;
  readonly limit: string;
  readonly before?: string;
}
