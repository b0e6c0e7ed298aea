import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import type pg from 'pg';
import { databaseFault } from './classify-error.ts';
import { ConnectionPool, type Lent } from './connection-pool.ts';
import { Listener } from './listener.ts';
import { schemaProbe } from './schema-version.ts';
import {
  type Queryable,
  runStatement,
  runTransaction,
  type Statement,
  type Transaction,
} from './transaction.ts';

export type { Queryable, Statement, Transaction } from './transaction.ts';

export interface DatabaseOptions {
  readonly url: string;
  readonly poolSize: number;
  readonly maxOverflow: number;
  readonly poolTimeoutMs: number;
  readonly poolRecycleMs: number;
  /** The server cancels a statement after this; our side gives up two seconds later. Default 8000. */
  readonly statementTimeoutMs?: number;
  /** A connection above the pool size is closed after this long without use. Default 10 000. */
  readonly overflowIdleMs?: number;
  readonly applicationName: string;
  readonly log: Logger;
  readonly metrics: Metrics;
}

export interface TransactionOptions {
  /** Rows of this tenant are seen and written, no other's. Without it row level security shows nothing. */
  readonly tenant?: string;
  /** Bound on the whole: waiting for a connection, every statement, the commit. */
  readonly timeoutMs?: number;
}

/**
 * The database as a service sees it. int8 and numeric come as text (they do not fit a number), timestamptz as Date,
 * jsonb parsed, bytea as Buffer.
 *
 * Faults of every call: DATABASE_UNAVAILABLE (away, too slow, lost a race against another transaction, or not migrated;
 * `details.outcome` is 'unknown' when a commit may have happened: repeat with the same ids), LEASE_LOST (SB001),
 * INTERNAL_ERROR with the driver's error as cause (`sqlState(error)` reads its code).
 */
export interface Database extends Queryable {
  /**
   * One connection of its own (at most one more than the pool has) with short bounds, for statements that must not
   * queue behind others: heartbeats and probes. 2 s, then DATABASE_UNAVAILABLE.
   */
  readonly urgent: Queryable;
  /**
   * Runs `work` in one transaction and resolves after its commit and its afterCommit calls. When `work` throws, all is
   * rolled back and its error passed on. An error caught inside `work` does not save the transaction: what Postgres
   * aborted is reported as failed even if `work` returns.
   */
  transaction<T>(work: (tx: Transaction) => Promise<T>, options?: TransactionOptions): Promise<T>;
  /**
   * LISTEN on a connection of its own, shared by all channels, reconnecting by itself until the signal aborts.
   * `onNotify` is also called with '' after each (re)connect, because what was sent meanwhile is lost.
   */
  listen(channel: string, onNotify: (payload: string) => void, signal: AbortSignal): void;
  /** A readiness probe: the server answers and the schema is at `expected` (from `expectedMigrations`). */
  probe(expected: readonly string[]): (signal: AbortSignal) => Promise<void>;
  /** Closes everything within `timeoutMs` (4000); connections still lent out are cut then. */
  close(timeoutMs?: number): Promise<void>;
}

const urgentBoundMs = 2000;

async function withConnection<T>(
  pool: ConnectionPool,
  timeoutMs: number | undefined,
  use: (client: pg.PoolClient) => Promise<T>,
): Promise<T> {
  const lent: Lent = await pool.lend(timeoutMs);
  let failure: unknown;
  try {
    return await use(lent.client);
  } catch (error) {
    failure = error;
    throw error;
  } finally {
    lent.release(failure);
  }
}

function queryable(pool: ConnectionPool): Queryable {
  return {
    query: async <R>(statement: Statement, values?: readonly unknown[]): Promise<R[]> => {
      try {
        return await withConnection(pool, undefined, (client) => runStatement<R>(client, statement, values));
      } catch (error) {
        throw databaseFault(error, 'unknown');
      }
    },
  };
}

/**
 * Opens the pool; connects at the first use, so a service starts while its database is not there yet.
 * Owns every connection it makes and all their error listeners.
 */
export function openDatabase(options: DatabaseOptions): Database {
  const { url, log, metrics, applicationName } = options;
  const statementTimeoutMs = options.statementTimeoutMs ?? 8000;
  const pool = new ConnectionPool(url, { ...options, statementTimeoutMs }, log);
  const urgentPool = new ConnectionPool(
    url,
    {
      poolSize: 1,
      maxOverflow: 0,
      poolTimeoutMs: urgentBoundMs,
      poolRecycleMs: options.poolRecycleMs,
      statementTimeoutMs: urgentBoundMs / 2,
      answerGraceMs: urgentBoundMs / 2,
      applicationName: `${applicationName} urgent`,
    },
    log.child({ pool: 'urgent' }),
  );
  const urgent = queryable(urgentPool);
  const listener = new Listener(url, `${applicationName} listen`, log);

  const endGauge = metrics.gauge(
    'database_connections_active',
    { help: 'Database connections in use.', labels: ['pool'] },
    () => [
      { value: pool.active, labels: { pool: 'main' } },
      { value: urgentPool.active, labels: { pool: 'urgent' } },
    ],
  );

  return {
    ...queryable(pool),
    urgent,
    transaction: (work, given = {}) => {
      const deadline = given.timeoutMs === undefined ? undefined : performance.now() + given.timeoutMs;
      return runTransaction({
        lend: (timeoutMs) => pool.lend(timeoutMs),
        work,
        tenant: given.tenant,
        deadline,
        log,
      });
    },
    listen: (channel, onNotify, signal) => listener.listen(channel, onNotify, signal),
    probe: (expected) => schemaProbe(urgent, expected),
    close: async (timeoutMs = 4000) => {
      endGauge();
      await Promise.all([listener.close(), pool.close(timeoutMs), urgentPool.close(timeoutMs)]);
    },
  };
}
