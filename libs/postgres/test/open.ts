import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { type Database, type DatabaseOptions, openDatabase } from '../src/database.ts';

/** A database with small bounds. */
export function open(url: string, more: Partial<DatabaseOptions> = {}): Database {
  return openDatabase({
    url,
    poolSize: 2,
    maxOverflow: 2,
    poolTimeoutMs: 1500,
    poolRecycleMs: 600_000,
    statementTimeoutMs: 1000,
    applicationName: 'postgres-test',
    log: silentLog,
    metrics: silentMetrics,
    ...more,
  });
}
