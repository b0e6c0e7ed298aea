import type { Command } from 'commander';
import type { Streams } from './dlq.ts';

/** `signalbox webhooks …` and `signalbox webhook-secret`: what operators do about callback URLs. */
export function addWebhookCommands(program: Command, streams: Streams): void {
  program
    .command('webhook-secret')
    .description("print the secret that a tenant's webhooks are signed with (WEBHOOK_SIGNING_SECRET)")
    .requiredOption('--tenant <tenant>', 'whose')
    .action(async ({ tenant }: { tenant: string }) => {
      const { showWebhookSecret } = await import('./webhooks.ts');
      showWebhookSecret(tenant, streams);
    });

  const webhooks = program.command('webhooks').description('webhooks, as an operator (DATABASE_OWNER_URL)');

  webhooks
    .command('failed')
    .description('those that are not tried any more, the last first')
    .option('--tenant <tenant>', 'whose; all without it')
    .option('--limit <count>', 'lines at most', '50')
    .action(async (options: { tenant?: string; limit: string }) => {
      const { listFailedWebhooks } = await import('./webhooks.ts');
      const limit = Number.parseInt(options.limit, 10);
      if (!(limit >= 1 && limit <= 10_000)) throw new Error('--limit takes a number from 1 to 10000');
      await listFailedWebhooks({ ...options, limit }, streams);
    });

  webhooks
    .command('requeue')
    .description('try failed ones again, for another day')
    .requiredOption('--tenant <tenant>', 'whose')
    .option('--task <task_id>', 'only those of this task')
    .option('--id <webhook_id>', 'only this one')
    .action(async (options: { tenant: string; task?: string; id?: string }) => {
      const { requeueWebhooks } = await import('./webhooks.ts');
      await requeueWebhooks(options, streams);
    });
}
