import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'dotenv';
import { environmentSecrets, fileSecrets, type SyncSecretProvider } from './secrets.ts';

export type Values = Readonly<Record<string, string | undefined>>;

/** What settings are read from, lowest first. Tests pass their own; a service takes `processSources()`. */
export interface Sources {
  /** Addresses of the running embedded stack; used in dev only. */
  readonly state: Values;
  /** The file `.env`. */
  readonly dotenv: Values;
  readonly environment: Values;
  readonly secrets: readonly SyncSecretProvider[];
}

/** The root of the checkout or of the image: the folder with nx.json and apps/. */
export const projectRoot = join(import.meta.dirname, '..', '..', '..');

/** The process' own sources. The only place of the project that reads process.env. */
export function processSources(root: string = projectRoot): Sources {
  const environment: Values = { ...process.env };
  const dotenv = readDotenv(join(root, '.env'));
  const either: Values = { ...dotenv, ...environment };
  const secretsFolder = either.SIGNALBOX_SECRETS_DIR || either.SECRETS_DIR || '/run/secrets';
  return {
    state: readState(join(root, '.data', 'state.json')),
    dotenv,
    environment,
    secrets: [environmentSecrets(either), fileSecrets(secretsFolder)],
  };
}

/** Sources of exactly these values, for tests and for programs that know their settings. */
export function givenSources(environment: Values, more: Partial<Sources> = {}): Sources {
  return { state: {}, dotenv: {}, environment, secrets: [environmentSecrets(environment)], ...more };
}

function readDotenv(path: string): Values {
  const text = readIfThere(path);
  return text === undefined ? {} : parse(text);
}

/** Settings that the embedded stack's state file stands for, and where each is in it. */
const stateNames: Readonly<Record<string, readonly [part: string, field: string]>> = {
  KAFKA_BOOTSTRAP_SERVERS: ['kafka', 'bootstrap'],
  KAFKA_CLUSTER_ID: ['kafka', 'clusterId'],
  DATABASE_URL: ['postgres', 'url'],
  DATABASE_OWNER_URL: ['postgres', 'ownerUrl'],
  REDIS_URL: ['redis', 'url'],
  OTEL_EXPORTER_OTLP_ENDPOINT: ['otlp', 'url'],
  ZIPKIN_URL: ['zipkin', 'url'],
  MODEL_BASE_URL: ['model', 'url'],
  GATEWAY_URL: ['services', 'gateway'],
};

/** Reads the state file; a file that is half written or from another release counts as none. */
export function readState(path: string): Values {
  const text = readIfThere(path);
  if (text === undefined) return {};
  let state: unknown;
  try {
    state = JSON.parse(text);
  } catch {
    return {};
  }
  const values: Record<string, string> = {};
  for (const [name, [part, field]] of Object.entries(stateNames)) {
    const holder = member(state, part);
    const found = part === 'services' ? member(member(holder, field), 'url') : member(holder, field);
    if (typeof found === 'string' && found !== '') values[name] = found;
  }
  return values;
}

function member(holder: unknown, name: string): unknown {
  if (typeof holder !== 'object' || holder === null) return undefined;
  return Object.entries(holder).find(([key]) => key === name)?.[1];
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
}
