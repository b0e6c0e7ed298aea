import { projectRoot } from '@signalbox/config/sources';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { startEmbeddedStack } from './embedded-stack.ts';
import { printProgress } from './progress.ts';
import { loadGiven, parseStackArguments } from './stack-settings.ts';
import { terminalLog } from './terminal-log.ts';

/** `npm run infra`: the parts alone, for services started one by one. */
await runMain(async (lifecycle) => {
  const progress = printProgress();
  lifecycle.configure({ drainDelayMs: 0, stopTimeoutMs: 90_000, log: terminalLog(progress) });
  const stack = await startEmbeddedStack({
    root: projectRoot,
    arguments: parseStackArguments(process.argv.slice(2)),
    given: loadGiven(),
    progress,
    lifecycle,
  });
  await stack.settled;
  const { kafka, postgres, redis, zipkin, otlp, model } = stack.state;
  const lines = [
    '',
    'The parts are up; services started in this checkout find them. Ctrl-C stops them.',
    `  KAFKA_BOOTSTRAP_SERVERS      ${kafka?.bootstrap}`,
    `  DATABASE_URL                 ${postgres?.url}`,
    `  DATABASE_OWNER_URL           ${postgres?.ownerUrl}`,
    `  REDIS_URL                    ${redis?.url}`,
    `  OTEL_EXPORTER_OTLP_ENDPOINT  ${otlp?.url}`,
    `  MODEL_BASE_URL               ${model?.url}`,
    ...(zipkin === undefined ? [] : [`  traces                       ${zipkin.url}/zipkin/`]),
    '  next: npx signalbox migrate, npm run seed, npx nx serve gateway',
    '',
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
});
