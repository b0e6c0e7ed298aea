import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Fault } from '@signalbox/faults/fault';
import { afterEach, beforeEach, describe, expect, expectTypeOf, test } from 'vitest';
import { databaseSettings } from './database-settings.ts';
import { httpSettings } from './http-settings.ts';
import { kafkaSettings } from './kafka-settings.ts';
import { serviceSettings } from './service-settings.ts';
import {
  choice,
  decimal,
  describeSettings,
  flag,
  integer,
  list,
  loadSettings,
  type Shape,
  secret,
  text,
  url,
} from './settings.ts';
import { givenSources, processSources, readState, type Sources } from './sources.ts';

function mistakes(shape: Shape, environment: Record<string, string>, more: Partial<Sources> = {}) {
  try {
    loadSettings('gateway', shape, givenSources(environment, more));
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    expect(error.code).toBe('CONFIG_INVALID');
    expect(error.details).toEqual({ service: 'gateway' });
    return Object.fromEntries((error.errors ?? []).map(({ path, message }) => [path, message]));
  }
  return {};
}

const load = <S extends Shape>(shape: S, environment: Record<string, string>, more: Partial<Sources> = {}) =>
  loadSettings('gateway', shape, givenSources(environment, more));

describe('kinds', () => {
  const shape = {
    name: text({ env: 'NAME', doc: '', default: 'x', max: 5 }),
    size: integer({ env: 'SIZE', doc: '', min: 1, max: 10, default: 3 }),
    share: decimal({ env: 'SHARE', doc: '', max: 1, default: 0.5 }),
    on: flag({ env: 'ON', doc: '', default: false }),
    mode: choice({
      env: 'MODE',
      doc: '',
      values: ['fast', 'safe'],
      aliases: { slow: 'safe' },
      default: 'fast',
    }),
    hosts: list({ env: 'HOSTS', doc: '', default: [], pattern: /^[a-z]+$/ }),
    base: url({ env: 'BASE', doc: '', optional: true }),
  };

  test('read what they are, and are typed so', () => {
    const settings = load(shape, {
      NAME: 'abc',
      SIZE: '7',
      SHARE: '0.25',
      ON: 'Yes',
      MODE: 'SLOW',
      HOSTS: ' a , b,,',
      BASE: 'https://h/',
    });
    expect(settings).toEqual({
      name: 'abc',
      size: 7,
      share: 0.25,
      on: true,
      mode: 'safe',
      hosts: ['a', 'b'],
      base: 'https://h/',
    });
    expectTypeOf(settings.mode).toEqualTypeOf<'fast' | 'safe'>();
    expectTypeOf(settings.base).toEqualTypeOf<string | undefined>();
    expectTypeOf(settings.hosts).toEqualTypeOf<readonly string[]>();
    expect(Object.isFrozen(settings)).toBe(true);
  });

  test('have defaults; an empty value is none', () => {
    expect(load(shape, { NAME: '', SIZE: '  ' })).toEqual({
      name: 'x',
      size: 3,
      share: 0.5,
      on: false,
      mode: 'fast',
      hosts: [],
      base: undefined,
    });
  });

  test.each([
    ['NAME', 'abcdef', 'must have 1 to 5 characters'],
    ['SIZE', '11', 'must be 1 to 10'],
    ['SIZE', '1.5', 'must be a whole number'],
    ['SIZE', '0x10', 'must be a whole number'],
    ['SHARE', '2', 'must be 0 to 1'],
    ['SHARE', 'NaN', 'must be a number'],
    ['ON', 'maybe', 'must be true or false'],
    ['MODE', 'medium', 'must be one of fast, safe'],
    ['HOSTS', 'a,B', 'has an entry that does not match ^[a-z]+$'],
    ['BASE', 'h:1', 'must start with http:// or https://'],
    ['BASE', 'nowhere', 'must be an absolute URL'],
  ])('%s=%s: %s', (name, value, message) => {
    expect(mistakes(shape, { [name]: value })).toEqual({ [name]: message });
  });
});

describe('loadSettings', () => {
  test('lists every mistake at once', () => {
    const found = mistakes(
      { ...serviceSettings, ...databaseSettings, ...kafkaSettings },
      {
        ENVIRONMENT: 'testing',
        PORT: '80800',
        LOG_LEVEL: 'loud',
        DATABASE_URL: 'mysql://h/d',
        DATABASE_POOL_SIZE: 'ten',
      },
    );
    expect(found).toEqual({
      ENVIRONMENT: 'must be one of dev, staging, prod',
      PORT: 'must be 0 to 65535',
      LOG_LEVEL: 'must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL',
      DATABASE_URL: 'must start with postgres:// or postgresql://',
      DATABASE_POOL_SIZE: 'must be a whole number',
      KAFKA_BOOTSTRAP_SERVERS: 'is required',
    });
  });

  test('never shows the value of a secret, not in a mistake either', () => {
    const shape = { key: secret({ env: 'KEY', doc: '', min: 20 }) };
    expect(JSON.stringify(mistakes(shape, { KEY: 'hunter2' }))).not.toContain('hunter2');
  });

  test('takes the highest source that has a value, and tells which', () => {
    const shape = { a: text({ env: 'A', doc: '', default: 'default', profiles: { dev: 'profile' } }) };
    const origin = (environment: Record<string, string>, more: Partial<Sources> = {}) => {
      const settings = load(shape, environment, more);
      return [settings.a, describeSettings(settings).settings.A?.origin];
    };
    const dev = { ENVIRONMENT: 'dev' };
    const state = { A: 'state' };
    const dotenv = { A: 'file' };
    expect(origin({})).toEqual(['default', 'default']);
    expect(origin(dev)).toEqual(['profile', 'profile']);
    expect(origin(dev, { state })).toEqual(['state', 'state file']);
    expect(origin({ ENVIRONMENT: 'prod' }, { state })).toEqual(['default', 'default']);
    expect(origin(dev, { state, dotenv })).toEqual(['file', '.env']);
    expect(origin({ ...dev, A: 'env' }, { state, dotenv })).toEqual(['env', 'environment']);
    expect(origin({ ...dev, A: 'env', SIGNALBOX_A: 'ours' }, { dotenv })).toEqual(['ours', 'environment']);
    expect(origin({ ...dev, A: 'env' }, { dotenv: { SIGNALBOX_A: 'ours' } })).toEqual(['ours', '.env']);
  });

  test('gives each service its own defaults', () => {
    const worker = loadSettings('conversation-worker', serviceSettings, givenSources({}));
    const gateway = loadSettings('gateway', serviceSettings, givenSources({}));
    expect([worker.port, worker.serviceName, worker.shutdownTimeoutMs]).toEqual([
      8021,
      'conversation-worker',
      30_000,
    ]);
    expect([gateway.port, gateway.serviceName, gateway.shutdownTimeoutMs]).toEqual([8010, 'gateway', 20_000]);
    expect(gateway.serviceVersion).toMatch(/^\d+\.\d+\.\d+/);
  });

  test('takes the cluster id of the state file with its broker only', () => {
    const state = { KAFKA_BOOTSTRAP_SERVERS: '127.0.0.1:9092', KAFKA_CLUSTER_ID: 'embedded' };
    const ours = load(kafkaSettings, { ENVIRONMENT: 'dev' }, { state });
    expect([ours.kafkaBootstrapServers, ours.kafkaClusterId]).toEqual([['127.0.0.1:9092'], 'embedded']);
    const theirs = load(
      kafkaSettings,
      { ENVIRONMENT: 'dev', KAFKA_BOOTSTRAP_SERVERS: 'broker:9092' },
      { state },
    );
    expect(theirs.kafkaClusterId).toBeUndefined();
  });
});

describe('profiles', () => {
  test.each([
    ['dev', 'dev', 'DEBUG', 'pretty'],
    ['Development', 'dev', 'DEBUG', 'pretty'],
    ['staging', 'staging', 'INFO', 'json'],
    ['production', 'prod', 'INFO', 'json'],
    ['', 'prod', 'INFO', 'json'],
  ])('ENVIRONMENT=%s is %s: %s, %s', (given, environment, level, format) => {
    const settings = load(serviceSettings, { ENVIRONMENT: given });
    expect([settings.environment, settings.logLevel, settings.logFormat]).toEqual([
      environment,
      level,
      format,
    ]);
  });

  const loose = {
    CORS_ORIGINS: 'https://a.example,*',
    LOG_LEVEL: 'debug',
    LOG_FORMAT: 'pretty',
    NOTE: 'sk_dev_acme00000001_0123456789abcdef0123456789abcdef',
  };
  const shape = { ...serviceSettings, ...httpSettings, note: text({ env: 'NOTE', doc: '', default: '-' }) };

  test.each(['prod', 'staging'])('%s refuses what only dev may have', (environment) => {
    const found = mistakes(shape, { ENVIRONMENT: environment, ...loose });
    expect(Object.keys(found).sort()).toEqual(['CORS_ORIGINS', 'LOG_FORMAT', 'LOG_LEVEL', 'NOTE']);
    expect(found.CORS_ORIGINS).toBe(`${environment} refuses CORS *: list the origins`);
    expect(found.NOTE).toBe(`${environment} refuses the seeded development keys`);
  });

  test('dev takes them', () => {
    expect(mistakes(shape, { ENVIRONMENT: 'dev', ...loose })).toEqual({});
  });

  test('an unreadable ENVIRONMENT is the strictest one', () => {
    expect(mistakes(shape, { ENVIRONMENT: 'dve', CORS_ORIGINS: '*' })).toMatchObject({
      ENVIRONMENT: expect.any(String),
      CORS_ORIGINS: 'prod refuses CORS *: list the origins',
    });
  });
});

describe('describeSettings', () => {
  test('masks secrets and passwords, and keeps references as they are', () => {
    const shape = {
      key: secret({ env: 'KEY', doc: '' }),
      database: url({ env: 'DATABASE_URL', doc: '', schemes: ['postgres'] }),
      other: url({ env: 'OTHER_URL', doc: '', schemes: ['postgres'] }),
    };
    const settings = load(shape, {
      KEY: 'hunter2',
      DATABASE_URL: 'postgres://app:hunter2@db/signalbox',
      // biome-ignore lint/suspicious/noTemplateCurlyInString: a reference is written like this
      OTHER_URL: 'postgres://app:${secret:db-password}@db/signalbox',
      SIGNALBOX_SECRET_DB_PASSWORD: 'hunter2',
    });
    expect(settings.other).toBe('postgres://app:hunter2@db/signalbox');
    const { settings: shown } = describeSettings(settings);
    expect(shown).toEqual({
      KEY: { value: '***', origin: 'environment' },
      DATABASE_URL: { value: 'postgres://app:***@db/signalbox', origin: 'environment' },
      // biome-ignore lint/suspicious/noTemplateCurlyInString: a reference is written like this
      OTHER_URL: { value: 'postgres://app:${secret:db-password}@db/signalbox', origin: 'environment' },
    });
    expect(JSON.stringify(shown)).not.toContain('hunter2');
  });

  test('warns of names that are not read', () => {
    const settings = load(
      {},
      { MAX_POOL_SIZE: '5', DEBUG: 'true', CLAUDE_API_KEY: 'k', POOL_RECYCLE: '' },
      { dotenv: { ALLOWED_ORIGINS: '*' } },
    );
    expect(describeSettings(settings).warnings).toEqual([
      'ALLOWED_ORIGINS is not read; set CORS_ORIGINS instead',
      'CLAUDE_API_KEY is not read; set MODEL_API_KEY instead',
      'DEBUG is not read; set LOG_LEVEL (DEBUG) and ENVIRONMENT (dev) instead',
      'MAX_POOL_SIZE is not read; set DATABASE_POOL_SIZE and DATABASE_MAX_OVERFLOW instead',
    ]);
  });

  test('knows only what loadSettings returned', () => {
    expect(() => describeSettings({})).toThrow('loadSettings');
  });
});

describe('the sources of a process', () => {
  let root: string;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'signalbox-config-'));
  });
  afterEach(() => rmSync(root, { recursive: true }));

  test('are .env and the state file of the embedded stack', () => {
    mkdirSync(join(root, '.data'));
    writeFileSync(join(root, '.env'), 'PORT=1234 # a comment\nHOST="::1"\n');
    writeFileSync(
      join(root, '.data/state.json'),
      JSON.stringify({
        startedAt: 'now',
        kafka: { bootstrap: '127.0.0.1:9093', clusterId: 'c', pid: 1 },
        postgres: { url: 'postgres://a@127.0.0.1:5433/s', ownerUrl: 'postgres://o@127.0.0.1:5433/s' },
        redis: { url: 'redis://127.0.0.1:6380' },
        otlp: { url: 'http://127.0.0.1:4318' },
        model: { url: 'http://127.0.0.1:8090/v1' },
        services: { gateway: { url: 'http://127.0.0.1:8010', pid: 2 } },
      }),
    );
    const sources = processSources(root);
    expect(sources.dotenv).toEqual({ PORT: '1234', HOST: '::1' });
    expect(sources.state).toEqual({
      KAFKA_BOOTSTRAP_SERVERS: '127.0.0.1:9093',
      KAFKA_CLUSTER_ID: 'c',
      DATABASE_URL: 'postgres://a@127.0.0.1:5433/s',
      DATABASE_OWNER_URL: 'postgres://o@127.0.0.1:5433/s',
      REDIS_URL: 'redis://127.0.0.1:6380',
      OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:4318',
      MODEL_BASE_URL: 'http://127.0.0.1:8090/v1',
      GATEWAY_URL: 'http://127.0.0.1:8010',
    });
  });

  test('may be missing or half written', () => {
    expect(processSources(root)).toMatchObject({ dotenv: {}, state: {} });
    const path = join(root, 'state.json');
    for (const content of ['{"kafka": {"boot', '[]', 'null', '{"kafka": 7, "redis": {"url": 7}}']) {
      writeFileSync(path, content);
      expect(readState(path)).toEqual({});
    }
  });
});
