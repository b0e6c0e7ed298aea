import { readVariable } from '@signalbox/config/process-environment';

/** Where the real parts are that the tests of this run use. */
export interface TestInfra {
  /** `host:port[,host:port]`. */
  readonly kafka: string;
  /** Postgres as a role that may create databases and roles. */
  readonly ownerUrl: string;
  readonly redisUrl: string;
}

/**
 * The broker, database and cache of this run. Vitest's global setup starts those that the environment does not name and
 * tells its workers in the same variables. Throws when one is missing.
 */
export function testInfra(): TestInfra {
  return {
    kafka: needed('KAFKA_BOOTSTRAP_SERVERS'),
    ownerUrl: needed('DATABASE_OWNER_URL'),
    redisUrl: needed('REDIS_URL'),
  };
}

function needed(name: string): string {
  const value = readVariable(name);
  if (value === undefined) {
    throw new Error(`${name} is not set: run vitest from the root, whose global setup starts the parts`);
  }
  return value;
}
