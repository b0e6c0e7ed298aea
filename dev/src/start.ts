import { join } from 'node:path';
import { projectRoot } from '@signalbox/config/sources';
import { type Lifecycle, runMain } from '@signalbox/lifecycle/lifecycle';
import { bannerText } from './banner.ts';
import { type EmbeddedStack, startEmbeddedStack } from './embedded-stack.ts';
import { PartProblem } from './part-problem.ts';
import { type Progress, printProgress } from './progress.ts';
import { migrateStack } from './run-cli.ts';
import { type RunningService, runService, waitReady } from './run-services.ts';
import { seedStack } from './seed-stack.ts';
import { serviceNames, usualServicePorts } from './service-names.ts';
import { type Given, loadGiven, parseStackArguments, type StackArguments } from './stack-settings.ts';
import type { StackState } from './state-file.ts';
import { terminalLog } from './terminal-log.ts';

const readyWithinMs = 60_000;
/** Above the services' own bound of 30 s. */
const stopServicesWithinMs = 33_000;

/** What services are started with. Addresses stand in it, so that a stack in another data folder finds its own parts. */
function serviceEnvironment(
  given: Given,
  state: StackState,
  dataDir: string,
): Record<string, string | undefined> {
  const { kafka, postgres, redis, otlp, model } = state;
  return {
    ENVIRONMENT: 'dev',
    // The seeded keys are known to everybody: only this machine may use them, unless asked otherwise.
    HOST: given.host ?? '127.0.0.1',
    LOG_LEVEL: given.logLevel ?? 'INFO',
    DATABASE_POOL_SIZE: given.databasePoolSize ?? '4',
    DATABASE_MAX_OVERFLOW: given.databaseMaxOverflow ?? '0',
    DATA_DIR: dataDir,
    EXPORT_DIR: join(dataDir, 'exports'),
    KAFKA_BOOTSTRAP_SERVERS: kafka?.bootstrap,
    ...(kafka?.clusterId === undefined ? {} : { KAFKA_CLUSTER_ID: kafka.clusterId }),
    DATABASE_URL: postgres?.url,
    REDIS_URL: redis?.url,
    OTEL_EXPORTER_OTLP_ENDPOINT: otlp?.url,
    MODEL_BASE_URL: model?.url,
  };
}

interface Run {
  readonly stack: EmbeddedStack;
  readonly options: StackArguments;
  readonly given: Given;
  readonly progress: Progress;
  readonly lifecycle: Lifecycle;
}

async function startServices({ stack, options, given, progress, lifecycle }: Run): Promise<RunningService[]> {
  const services: RunningService[] = [];
  lifecycle.onStop({
    name: 'services',
    phase: 'intake',
    timeoutMs: stopServicesWithinMs + 2_000,
    run: async () => {
      if (services.length > 0) progress(`services: stopping ${services.map(({ name }) => name).join(', ')}`);
      await Promise.all(services.map((service) => service.stop(stopServicesWithinMs)));
    },
  });
  for (const name of serviceNames.filter((each) => !options.without.includes(each))) {
    lifecycle.stopEvent.throwIfAborted();
    services.push(
      await runService({
        name,
        root: projectRoot,
        logDir: join(options.dataDir, 'logs'),
        port: options.ports[name] ?? usualServicePorts[name],
        environment: serviceEnvironment(given, stack.state, options.dataDir),
        keeper: stack.keeper,
        progress,
        onChange: (service) => stack.setService(name, service),
      }),
    );
  }
  progress(`services: starting ${services.map(({ name }) => name).join(', ')}`);
  return services;
}

/** `npm start`: the parts, the tables and topics, the seeded tenants, the services. */
await runMain(async (lifecycle) => {
  const startedAt = performance.now();
  const progress = printProgress(startedAt);
  lifecycle.configure({ drainDelayMs: 0, stopTimeoutMs: 120_000, log: terminalLog(progress) });
  const options = parseStackArguments(process.argv.slice(2));
  const given = loadGiven();
  const servicesUp = Promise.withResolvers<void>();
  const stack = await startEmbeddedStack({
    root: projectRoot,
    arguments: options,
    given,
    progress,
    lifecycle,
    zipkinAfter: servicesUp.promise,
  });
  const { kafka, postgres } = stack.state;
  if (kafka === undefined || postgres === undefined)
    throw new PartProblem('neither started nor given: Kafka or Postgres');
  const environment = {
    ENVIRONMENT: 'dev',
    KAFKA_BOOTSTRAP_SERVERS: kafka.bootstrap,
    DATABASE_OWNER_URL: postgres.ownerUrl,
    DATABASE_URL: postgres.url,
  };
  await migrateStack(projectRoot, environment, progress, lifecycle.stopEvent);
  await seedStack(postgres.ownerUrl, progress);
  const services = await startServices({ stack, options, given, progress, lifecycle });
  const reasons = await Promise.all(
    services.map((service) => waitReady(service, readyWithinMs, lifecycle.stopEvent)),
  );
  servicesUp.resolve();
  lifecycle.stopEvent.throwIfAborted();
  const unready = services.flatMap(({ name }, index) =>
    reasons[index] === undefined ? [] : [`${name}: ${reasons[index]}`],
  );
  for (const line of unready) progress(`not ready after ${readyWithinMs / 1_000} s: ${line}`);
  if (services.length > 0 && unready.length === services.length)
    throw new PartProblem('no service became ready');
  process.stdout.write(bannerText(stack.state, given, (performance.now() - startedAt) / 1_000));
});
