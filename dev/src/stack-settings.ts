import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { loadSettings, text } from '@signalbox/config/settings';
import { processSources, projectRoot } from '@signalbox/config/sources';
import { PartProblem } from './part-problem.ts';
import { usualPorts } from './parts.ts';
import { type ServiceName, serviceNames, usualServicePorts } from './service-names.ts';

const address = (env: string, doc: string) => text({ env, doc, optional: true });

const shape = {
  kafkaBootstrapServers: address('KAFKA_BOOTSTRAP_SERVERS', 'A broker to use instead of the embedded one.'),
  databaseUrl: address('DATABASE_URL', 'A database to use instead of the embedded one.'),
  databaseOwnerUrl: address('DATABASE_OWNER_URL', 'The same database as the role that runs migrations.'),
  redisUrl: address('REDIS_URL', 'A cache to use instead of the embedded one.'),
  otlpEndpoint: address('OTEL_EXPORTER_OTLP_ENDPOINT', 'A collector to use instead of the embedded Zipkin.'),
  modelBaseUrl: address('MODEL_BASE_URL', 'A model to use instead of the stand-in.'),
  modelProvider: address('MODEL_PROVIDER', 'API of that model; openai where none is given.'),
  modelApiKey: address('MODEL_API_KEY', 'Key of that model.'),
  host: address('HOST', 'Address that the services listen on; loopback here.'),
  logLevel: address('LOG_LEVEL', 'Least level that the services write; INFO here.'),
  databasePoolSize: address('DATABASE_POOL_SIZE', 'Connections a service keeps; 4 here.'),
  databaseMaxOverflow: address('DATABASE_MAX_OVERFLOW', 'Connections above that; none here.'),
};

/** A setting that was given, or undefined. */
export type Given = { readonly [name in keyof typeof shape]: string | undefined };

/** Whether a real model was named; without an address it is at its provider's public one. */
export function givesModel({ modelBaseUrl, modelProvider, modelApiKey }: Given): boolean {
  return modelBaseUrl !== undefined || modelProvider !== undefined || modelApiKey !== undefined;
}

/** Addresses from the environment or .env, for parts that are then not started. The own state file does not count. */
export function loadGiven(): Given {
  const sources = processSources();
  const environment = { ...sources.environment, ENVIRONMENT: 'dev' };
  return loadSettings('dev', shape, { ...sources, state: {}, environment });
}

export type PortName = keyof typeof usualPorts | ServiceName;

export interface StackArguments {
  readonly dataDir: string;
  readonly without: readonly ServiceName[];
  readonly ports: Partial<Record<PortName, number>>;
}

function isServiceName(name: string): name is ServiceName {
  return serviceNames.some((each) => each === name);
}

function parsePort(option: string, value: string): number {
  const port = Number(value);
  if (!Number.isInteger(port) || port < 0 || port > 65_535)
    throw new PartProblem(`--${option} ${value}: no port`);
  return port;
}

/** Reads `--without <service>`, `--port-<part or service> <n>` and `--data-dir <folder>`. */
export function parseStackArguments(args: readonly string[]): StackArguments {
  const portNames = [...Object.keys(usualPorts), ...Object.keys(usualServicePorts)];
  const portOptions = Object.fromEntries(
    portNames.map((name) => [`port-${name}`, { type: 'string' as const }]),
  );
  const options = {
    without: { type: 'string' as const, multiple: true as const },
    'data-dir': { type: 'string' as const },
    ...portOptions,
  };
  let values: Record<string, unknown>;
  try {
    values = parseArgs({ args: [...args], options, strict: true, allowPositionals: false }).values;
  } catch (error) {
    const known = Object.keys(options).map((name) => `--${name}`);
    throw new PartProblem(`${error instanceof Error ? error.message : error}; known: ${known.join(' ')}`);
  }
  const without = (Array.isArray(values.without) ? values.without : []).flatMap((value) =>
    String(value).split(','),
  );
  const unknown = without.find((name) => !isServiceName(name));
  if (unknown !== undefined)
    throw new PartProblem(`--without ${unknown}: no such service; there are ${serviceNames.join(', ')}`);
  const ports = Object.fromEntries(
    portNames.flatMap((name) => {
      const value = values[`port-${name}`];
      return typeof value === 'string' ? [[name, parsePort(`port-${name}`, value)]] : [];
    }),
  );
  const dataDir = values['data-dir'];
  return {
    dataDir: typeof dataDir === 'string' ? dataDir : join(projectRoot, '.data'),
    without: without.filter(isServiceName),
    ports,
  };
}
