/** Which environment a service runs in; decides its profile and what it refuses. */
export type Environment = 'dev' | 'staging' | 'prod';

/** What a text is read as, or what is wrong with it. */
export type Parsed<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly message: string };

export type Fallback<T> = { readonly value: T } | undefined;

/** One declared setting: made by the functions below, read by `loadSettings`. */
export interface Setting<T> {
  readonly kind: 'text' | 'url' | 'integer' | 'decimal' | 'flag' | 'choice' | 'list' | 'secret';
  /** Name in the environment, UPPER_SNAKE, with its unit last. */
  readonly env: string;
  /** What it does, for .env.example and the reference. */
  readonly doc: string;
  readonly optional: boolean;
  readonly secret: boolean;
  /** Bounds or values, in words. */
  readonly allowed: string | undefined;
  /** The default of a service, where there is one. */
  fallback(service: string): Fallback<T>;
  /** What a profile sets instead of the default. */
  profile(environment: Environment): Fallback<T>;
  parse(text: string): Parsed<T>;
  /** The text that would be read as this value. */
  format(value: T): string;
  /** Why staging and prod do not take this value, where they don't. */
  refusal(value: T): string | undefined;
}

export type AnySetting = Setting<unknown>;
export type Shape = Readonly<Record<string, AnySetting>>;
export type SettingsOf<S extends Shape> = {
  readonly [Name in keyof S]: S[Name] extends Setting<infer T> ? T : never;
};

interface Options<T> {
  readonly env: string;
  readonly doc: string;
  /** Without one the setting is required, unless `optional`. A function gives each service its own. */
  readonly default?: T | ((service: string) => T);
  readonly profiles?: { readonly [Name in Environment]?: T };
  /** Values that only dev takes, with the reason. */
  readonly devOnly?: (value: T) => string | undefined;
}
/** An optional setting has neither default nor obligation: it reads as undefined where nobody sets it. */
interface Optional {
  readonly optional: true;
}

interface Reading<T> {
  readonly kind: AnySetting['kind'];
  readonly allowed?: string | undefined;
  parse(text: string): Parsed<T>;
  format(value: T): string;
}

function declare<T>(options: Options<T> & { optional?: boolean }, reading: Reading<T>): Setting<T> {
  const { env, doc, profiles, devOnly } = options;
  return {
    kind: reading.kind,
    env,
    doc,
    optional: options.optional === true,
    secret: reading.kind === 'secret',
    allowed: reading.allowed,
    fallback(service) {
      const given = options.default;
      if (given === undefined) return undefined;
      return { value: isFunction(given) ? given(service) : given };
    },
    profile(environment) {
      const value = profiles?.[environment];
      return value === undefined ? undefined : { value };
    },
    parse: (text) => reading.parse(text),
    format: (value) => reading.format(value),
    refusal: (value) => devOnly?.(value),
  };
}

function isFunction<T>(given: T | ((service: string) => T)): given is (service: string) => T {
  return typeof given === 'function';
}

const good = <T>(value: T): Parsed<T> => ({ ok: true, value });
const bad = <T>(message: string): Parsed<T> => ({ ok: false, message });

interface TextOptions extends Options<string> {
  readonly min?: number;
  readonly max?: number;
  readonly pattern?: RegExp;
}

export function text(options: TextOptions & Optional): Setting<string | undefined>;
export function text(options: TextOptions): Setting<string>;
/** Any text; `min` and `max` bound its length. */
export function text(options: TextOptions & { optional?: boolean }): Setting<string> {
  const { min = 1, max = 4_096, pattern } = options;
  return declare(options, {
    kind: 'text',
    allowed: pattern === undefined ? undefined : `matches ${pattern.source}`,
    parse(given) {
      if (given.length < min || given.length > max) return bad(`must have ${min} to ${max} characters`);
      if (pattern !== undefined && !pattern.test(given)) return bad(`must match ${pattern.source}`);
      return good(given);
    },
    format: (value) => value,
  });
}

export function secret(options: TextOptions & Optional): Setting<string | undefined>;
export function secret(options: TextOptions): Setting<string>;
/** A text that no log, description or error ever shows. */
export function secret(options: TextOptions & { optional?: boolean }): Setting<string> {
  return { ...text(options), kind: 'secret', secret: true, optional: options.optional === true };
}

interface UrlOptions extends Options<string> {
  /** Schemes taken; http and https where none are given. */
  readonly schemes?: readonly string[];
}

export function url(options: UrlOptions & Optional): Setting<string | undefined>;
export function url(options: UrlOptions): Setting<string>;
/** An absolute URL, kept as it was written. A password in it is masked wherever it is shown. */
export function url(options: UrlOptions & { optional?: boolean }): Setting<string> {
  const schemes = options.schemes ?? ['http', 'https'];
  return declare(options, {
    kind: 'url',
    allowed: schemes.map((scheme) => `${scheme}://`).join(', '),
    parse(given) {
      const parsed = URL.parse(given);
      if (parsed === null) return bad('must be an absolute URL');
      if (!schemes.includes(parsed.protocol.slice(0, -1)))
        return bad(`must start with ${schemes.map((scheme) => `${scheme}://`).join(' or ')}`);
      return good(given);
    },
    format: (value) => value,
  });
}

interface NumberOptions extends Options<number> {
  readonly min?: number;
  readonly max?: number;
}

function bounded(min: number, max: number, value: number): Parsed<number> {
  return value < min || value > max ? bad(`must be ${range(min, max)}`) : good(value);
}

function range(min: number, max: number): string {
  return max === Number.MAX_SAFE_INTEGER ? `${min} or more` : `${min} to ${max}`;
}

export function integer(options: NumberOptions & Optional): Setting<number | undefined>;
export function integer(options: NumberOptions): Setting<number>;
/** A whole number within bounds; 0 to 2^53 − 1 where none are given. */
export function integer(options: NumberOptions & { optional?: boolean }): Setting<number> {
  const { min = 0, max = Number.MAX_SAFE_INTEGER } = options;
  return declare(options, {
    kind: 'integer',
    allowed: range(min, max),
    parse: (given) =>
      /^-?\d{1,16}$/.test(given) ? bounded(min, max, Number(given)) : bad('must be a whole number'),
    format: String,
  });
}

export function decimal(options: NumberOptions & Optional): Setting<number | undefined>;
export function decimal(options: NumberOptions): Setting<number>;
/** A number within bounds. */
export function decimal(options: NumberOptions & { optional?: boolean }): Setting<number> {
  const { min = 0, max = Number.MAX_SAFE_INTEGER } = options;
  return declare(options, {
    kind: 'decimal',
    allowed: range(min, max),
    parse: (given) =>
      /^-?\d{1,16}(\.\d{1,16})?$/.test(given) ? bounded(min, max, Number(given)) : bad('must be a number'),
    format: String,
  });
}

const yes = ['true', '1', 'yes', 'on'];
const no = ['false', '0', 'no', 'off'];

/** true or false. */
export function flag(options: Options<boolean>): Setting<boolean> {
  return declare(options, {
    kind: 'flag',
    allowed: 'true, false',
    parse(given) {
      const lower = given.toLowerCase();
      if (yes.includes(lower)) return good(true);
      return no.includes(lower) ? good(false) : bad('must be true or false');
    },
    format: String,
  });
}

interface ChoiceOptions<T extends string> extends Options<T> {
  readonly values: readonly T[];
  /** Other spellings that are read as a value. */
  readonly aliases?: Readonly<Record<string, T>>;
}

export function choice<const T extends string>(options: ChoiceOptions<T> & Optional): Setting<T | undefined>;
export function choice<const T extends string>(options: ChoiceOptions<T>): Setting<T>;
/** One of some values, in any case. */
export function choice<const T extends string>(
  options: ChoiceOptions<T> & { optional?: boolean },
): Setting<T> {
  const { values, aliases = {} } = options;
  return declare<T>(options, {
    kind: 'choice',
    allowed: values.join(', '),
    parse(given) {
      const lower = given.toLowerCase();
      const found = values.find((value) => value.toLowerCase() === lower) ?? aliases[lower];
      return found === undefined ? bad(`must be one of ${values.join(', ')}`) : good(found);
    },
    format: (value) => value,
  });
}

interface ListOptions extends Options<readonly string[]> {
  /** Bounds of the number of entries. */
  readonly min?: number;
  readonly max?: number;
  readonly pattern?: RegExp;
}

/** Texts separated by commas, without the spaces around them. */
export function list(options: ListOptions): Setting<readonly string[]> {
  const { min = 0, max = 1_000, pattern } = options;
  return declare(options, {
    kind: 'list',
    allowed: 'separated by commas',
    parse(given) {
      const entries = given
        .split(',')
        .map((entry) => entry.trim())
        .filter((entry) => entry !== '');
      if (entries.length < min || entries.length > max) return bad(`must have ${range(min, max)} entries`);
      const wrong = pattern === undefined ? undefined : entries.find((entry) => !pattern.test(entry));
      if (wrong !== undefined) return bad(`has an entry that does not match ${pattern?.source}`);
      return good(entries);
    },
    format: (value) => value.join(','),
  });
}
