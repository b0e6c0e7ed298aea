import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import pg from 'pg';
import { connectionConfig } from './connection-pool.ts';

export interface PlainPoolOptions {
  readonly url: string;
  /** Connections at most, the one that listens among them. They are opened when needed and closed when idle. */
  readonly size: number;
  /** Longest wait for a connection. */
  readonly poolTimeoutMs: number;
  /** The server cancels a statement after this; our side gives up two seconds later. Default 8000. */
  readonly statementTimeoutMs?: number;
  readonly applicationName: string;
  /** Its name in `database_connections_active`. */
  readonly poolName: string;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** The driver's own pool, for a library that runs statements of its own. */
export interface PlainPool {
  readonly pool: pg.Pool;
  /** Closes it within `timeoutMs` (4000); connections still lent out are cut then. */
  close(timeoutMs?: number): Promise<void>;
}

const connectTimeoutMs = 5000;
const answerGraceMs = 2000;

/**
 * A pool as a foreign library takes it: each wait bounded as in `openDatabase`, every connection with an error listener
 * of ours, so that one which breaks is the library's failed statement and never the end of the process, also in the
 * moment when the library has taken its own listener off.
 */
export function openPlainPool(options: PlainPoolOptions): PlainPool {
  const { url, size, applicationName, poolName, log, metrics } = options;
  const statementTimeoutMs = options.statementTimeoutMs ?? 8000;
  const pool = new pg.Pool({
    ...connectionConfig(url, applicationName),
    max: size,
    connectionTimeoutMillis: Math.min(connectTimeoutMs, options.poolTimeoutMs),
    statement_timeout: statementTimeoutMs,
    query_timeout: statementTimeoutMs + answerGraceMs,
  });
  const open = new Set<pg.PoolClient>();
  pool.on('error', (error) => log.warning('database.connection_lost', { error, state: 'idle' }));
  pool.on('connect', (client) => {
    open.add(client);
    client.on('error', (error) => log.debug('database.connection_error', { error }));
  });
  pool.on('remove', (client) => open.delete(client));
  const endGauge = metrics.gauge(
    'database_connections_active',
    { help: 'Database connections in use.', labels: ['pool'] },
    () => [{ value: pool.totalCount - pool.idleCount, labels: { pool: poolName } }],
  );
  let closed: Promise<void> | undefined;

  async function close(timeoutMs: number): Promise<void> {
    endGauge();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), timeoutMs);
    });
    const result = await Promise.race([pool.end(), late]);
    clearTimeout(timer);
    if (result !== 'late') return;
    log.warning('database.close_forced', { connections: open.size });
    for (const client of open) client.connection.stream.destroy();
  }
  return {
    pool,
    close: (timeoutMs = 4000) => {
      closed ??= close(timeoutMs);
      return closed;
    },
  };
}
