import { type FieldError, fault, isFault } from '@signalbox/faults/fault';
import { legacyWarnings } from './legacy-names.ts';
import { hasSecretReference, resolveSecretsNow } from './secrets.ts';
import { type AnySetting, choice, type Environment, type SettingsOf, type Shape } from './setting.ts';
import { processSources, type Sources } from './sources.ts';

export {
  choice,
  decimal,
  type Environment,
  flag,
  integer,
  list,
  type Setting,
  type SettingsOf,
  type Shape,
  secret,
  text,
  url,
} from './setting.ts';

/** Where a value came from, lowest first. */
export type Origin = 'default' | 'profile' | 'state file' | '.env' | 'environment' | 'unset';

export interface SettingDescription {
  /** As text; secrets, and passwords in URLs, masked; a `${secret:name}` stands for itself. */
  readonly value: string;
  readonly origin: Origin;
}

export interface SettingsDescription {
  readonly service: string;
  readonly environment: Environment;
  /** By name in the environment. */
  readonly settings: Readonly<Record<string, SettingDescription>>;
  /** Names seen that are not read, and which is read instead. */
  readonly warnings: readonly string[];
}

/** The environment decides the profile, so it is read before everything else. */
export const environmentSetting = choice<Environment>({
  env: 'ENVIRONMENT',
  doc: 'Which profile and which refusals apply. dev: DEBUG and pretty logs. staging and prod: INFO, JSON, and they refuse CORS *, DEBUG, pretty and the seeded keys.',
  values: ['dev', 'staging', 'prod'],
  aliases: { development: 'dev', production: 'prod', stage: 'staging' },
  default: 'prod',
});

const descriptions = new WeakMap<object, SettingsDescription>();

/**
 * Reads the settings of a service: default < profile < state file of the running embedded stack (dev only) < .env <
 * environment, and `SIGNALBOX_<NAME>` over `<NAME>`. An empty value counts as none. The result is frozen.
 * @throws CONFIG_INVALID with every mistake at once; no value of a secret is in it.
 */
export function loadSettings<S extends Shape>(
  service: string,
  shape: S,
  sources: Sources = processSources(),
): SettingsOf<S> {
  const mistakes: FieldError[] = [];
  const described: Record<string, SettingDescription> = {};
  const given = lookup(sources);
  const environment = readEnvironment(given);

  const origins = new Map<string, Origin>();
  for (const setting of Object.values(shape)) {
    origins.set(setting.env, given(setting.env, environment)?.origin ?? 'default');
  }
  const values: Record<string, unknown> = {};
  for (const [name, setting] of Object.entries(shape)) {
    const read = readSetting(setting, { service, environment, given, origins, sources });
    if (read.mistake !== undefined) mistakes.push({ path: setting.env, message: read.mistake });
    described[setting.env] = read.shown;
    values[name] = read.value;
  }
  if (mistakes.length > 0) {
    throw fault('CONFIG_INVALID', `${service}: ${mistakes.length} setting(s) are wrong`, {
      errors: mistakes,
      details: { service },
    });
  }
  const settings = Object.freeze(values);
  descriptions.set(settings, {
    service,
    environment,
    settings: described,
    warnings: legacyWarnings({ ...sources.dotenv, ...sources.environment }),
  });
  // Each value went through the parser of its own setting, name by name; that is what the type says.
  return settings as SettingsOf<S>;
}

/** What `config.validated` logs of loaded settings: every value with its origin, secrets masked. */
export function describeSettings(settings: object): SettingsDescription {
  const description = descriptions.get(settings);
  if (description === undefined) throw fault('INTERNAL_ERROR', 'not an object that loadSettings returned');
  return description;
}

type Given = { readonly text: string; readonly origin: Origin };
type Lookup = (name: string, environment?: Environment) => Given | undefined;

function lookup({ environment, dotenv, state }: Sources): Lookup {
  return (name, profile) => {
    for (const candidate of [`SIGNALBOX_${name}`, name]) {
      const fromEnvironment = environment[candidate]?.trim();
      if (fromEnvironment) return { text: fromEnvironment, origin: 'environment' };
      const fromFile = dotenv[candidate]?.trim();
      if (fromFile) return { text: fromFile, origin: '.env' };
    }
    const fromState = profile === 'dev' ? state[name] : undefined;
    return fromState ? { text: fromState, origin: 'state file' } : undefined;
  };
}

/** A wrong ENVIRONMENT is reported with the other mistakes; until then the strictest one counts. */
function readEnvironment(given: Lookup): Environment {
  const found = given('ENVIRONMENT');
  const parsed = found === undefined ? undefined : environmentSetting.parse(found.text);
  return parsed?.ok === true ? parsed.value : 'prod';
}

interface Reading {
  readonly service: string;
  readonly environment: Environment;
  readonly given: Lookup;
  readonly origins: ReadonlyMap<string, Origin>;
  readonly sources: Sources;
}

interface ReadSetting {
  readonly value?: unknown;
  readonly shown: SettingDescription;
  readonly mistake?: string;
}

function readSetting(setting: AnySetting, reading: Reading): ReadSetting {
  const { service, environment } = reading;
  const found = foundValue(setting, reading);
  if (found !== undefined) {
    const shown = { value: mask(setting, found.text), origin: found.origin };
    let resolved: string;
    try {
      resolved = resolveSecretsNow(found.text, reading.sources.secrets);
    } catch (error) {
      if (!isFault(error, 'SECRET_UNRESOLVED')) throw error;
      return { shown, mistake: error.message };
    }
    const parsed = setting.parse(resolved);
    if (!parsed.ok) return { shown, mistake: parsed.message };
    const refused = environment === 'dev' ? undefined : refusal(setting, parsed.value, resolved);
    if (refused !== undefined) return { shown, mistake: `${environment} refuses ${refused}` };
    return { value: parsed.value, shown };
  }
  const profile = setting.profile(environment);
  const fallback = profile ?? setting.fallback(service);
  if (fallback !== undefined) {
    const shown = mask(setting, setting.format(fallback.value));
    return {
      value: fallback.value,
      shown: { value: shown, origin: profile === undefined ? 'default' : 'profile' },
    };
  }
  const shown: SettingDescription = { value: '', origin: 'unset' };
  return setting.optional ? { shown } : { shown, mistake: 'is required' };
}

function foundValue(setting: AnySetting, { given, environment, origins }: Reading): Given | undefined {
  const found = given(setting.env, environment);
  // The state file's cluster id speaks of the state file's broker: with another broker it would refuse the right one.
  const strangerBroker = (origins.get('KAFKA_BOOTSTRAP_SERVERS') ?? 'state file') !== 'state file';
  if (setting.env === 'KAFKA_CLUSTER_ID' && found?.origin === 'state file' && strangerBroker)
    return undefined;
  return found;
}

function refusal(setting: AnySetting, value: unknown, text: string): string | undefined {
  if (/\bsk_dev_/.test(text)) return 'the seeded development keys';
  return setting.refusal(value);
}

function mask(setting: AnySetting, text: string): string {
  if (hasSecretReference(text)) return maskUrl(text);
  if (setting.secret) return '***';
  return setting.kind === 'list' ? text.split(',').map(maskUrl).join(',') : maskUrl(text);
}

/** `scheme://user:password@host` without the password, in anything that looks like it. */
function maskUrl(text: string): string {
  return text.replace(/(\w+:\/\/[^:/@\s]*):((?!\$\{secret:)[^@\s]*)@/, '$1:***@');
}
