import { asFault } from '@signalbox/faults/fault';
import { interrupts } from '@signalbox/lifecycle/interrupts';
import { Command } from 'commander';
import { addDlqCommands } from './dlq-commands.ts';
import { addMemoryCommands } from './memory-commands.ts';
import { commandSettings, stackSettings } from './settings.ts';
import { addWebhookCommands } from './webhook-commands.ts';

const print = (line: string): void => {
  process.stdout.write(`${line}\n`);
};
const note = (line: string): void => {
  process.stderr.write(`${line}\n`);
};

const program = new Command('signalbox')
  .description(
    'Runs and looks into a Signalbox stack. Settings come from the environment and the running embedded stack.',
  )
  .showHelpAfterError();

program
  .command('migrate')
  .description('bring tables, then topics, to this release (DATABASE_OWNER_URL, KAFKA_BOOTSTRAP_SERVERS)')
  .action(async () => {
    const { runMigrate } = await import('./migrate.ts');
    await runMigrate(print);
  });

program
  .command('trace')
  .description('print the trace of a message as a tree')
  .argument('<event_id>', 'as POST /v1/session/message answered it')
  .option('--wait [seconds]', 'wait until the trace is there and no longer grows; 20 s where none are given')
  .option('--zipkin <url>', 'Zipkin to ask, instead of ZIPKIN_URL')
  .action(async (eventId: string, options: { wait?: string | true; zipkin?: string }) => {
    const { showTrace } = await import('./show-trace.ts');
    const zipkinUrl = options.zipkin ?? commandSettings(stackSettings).zipkinUrl;
    await showTrace({ zipkinUrl, eventId, waitMs: waitMsOf(options.wait), print });
  });

program
  .command('chat')
  .description('talk to a persona; answers stream')
  .option('--once <text>', 'send one message, print its answer, end')
  .option('--session <id>', 'go on with this session')
  .option('--persona <id>', 'persona of a new session')
  .option('--key <key>', 'API key, instead of API_KEY')
  .option('--gateway <url>', 'gateway, instead of GATEWAY_URL')
  .action(
    async (options: {
      once?: string;
      session?: string;
      persona?: string;
      key?: string;
      gateway?: string;
    }) => {
      const { chatOnce, chatTerminal } = await import('./chat.ts');
      const settings = commandSettings(stackSettings);
      const chat = {
        gatewayUrl: options.gateway ?? settings.gatewayUrl,
        apiKey: options.key ?? settings.apiKey,
        sessionId: options.session,
        personaId: options.persona,
        write: (text: string) => void process.stdout.write(text),
        note,
        interrupts,
      };
      if (options.once === undefined) await chatTerminal(chat);
      else if (!(await chatOnce(chat, options.once))) process.exitCode = 1;
    },
  );

program
  .command('health')
  .description('print /health of the gateway, or of the service at a URL')
  .argument('[url]')
  .action(async (url: string | undefined) => {
    const { showHealth } = await import('./show-health.ts');
    if (!(await showHealth(url ?? commandSettings(stackSettings).gatewayUrl, print))) process.exitCode = 1;
  });

const streams = { print, note, write: (bytes: Buffer) => void process.stdout.write(bytes) };
addDlqCommands(program, streams);
addMemoryCommands(program, streams);
addWebhookCommands(program, streams);

function waitMsOf(wait: string | true | undefined): number {
  if (wait === undefined) return 0;
  const seconds = wait === true ? 20 : Number(wait);
  if (!Number.isFinite(seconds) || seconds < 0) throw new Error('--wait takes a number of seconds');
  return seconds * 1000;
}

try {
  await program.parseAsync();
} catch (error) {
  const failure = asFault(error);
  const cause = failure.cause instanceof Error ? failure.cause : undefined;
  // A defect of ours shows what was thrown; a fault's own words are made to be read.
  note(
    `${failure.code}: ${failure.code === 'INTERNAL_ERROR' && cause !== undefined ? (cause.stack ?? cause.message) : failure.message}`,
  );
  for (const { path, message } of failure.errors ?? []) note(`  ${path}: ${message}`);
  process.exitCode = failure.code === 'CONFIG_INVALID' ? 64 : 1;
}
