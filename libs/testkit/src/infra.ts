import { readVariable } from '@signalbox/config/process-environment';
import { inject } from 'vitest';

/** Where the real parts are that the tests of this run use. */
export interface TestInfra {
  /** `host:port[,host:port]`. */
  readonly kafka: string;
  /** Postgres as a role that may create databases and roles. */
  readonly ownerUrl: string;
  readonly redisUrl: string;
}

declare module 'vitest' {
  interface ProvidedContext {
    infra: TestInfra;
  }
}

/**
 * The broker, database and cache of this run: what the global setup provides (it starts them where none is given), else
 * KAFKA_BOOTSTRAP_SERVERS, DATABASE_OWNER_URL and REDIS_URL of the environment. Throws when neither names them.
 */
export function testInfra(): TestInfra {
  const provided = providedInfra();
  if (provided !== undefined) {
    return provided;
  }
  const kafka = readVariable('KAFKA_BOOTSTRAP_SERVERS');
  const ownerUrl = readVariable('DATABASE_OWNER_URL');
  const redisUrl = readVariable('REDIS_URL');
  if (kafka === undefined || ownerUrl === undefined || redisUrl === undefined) {
    throw new Error(
      'no broker, database and cache for tests: run vitest from the root, or set KAFKA_BOOTSTRAP_SERVERS, DATABASE_OWNER_URL and REDIS_URL',
    );
  }
  return { kafka, ownerUrl, redisUrl };
}

function providedInfra(): TestInfra | undefined {
  try {
    return inject('infra');
  } catch {
    return undefined; // outside of vitest
  }
}
