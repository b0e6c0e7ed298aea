import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Logger } from '@signalbox/telemetry/telemetry';
import pg from 'pg';
import { breaksConnection, databaseFault } from './classify-error.ts';

/** Bounds of one pool. All times in milliseconds. */
export interface PoolBounds {
  /** Connections kept open. */
  readonly poolSize: number;
  /** Connections above the size: opened under load, closed when idle. */
  readonly maxOverflow: number;
  /** Longest wait for a connection. */
  readonly poolTimeoutMs: number;
  /** A connection older than this is replaced before it is handed out again. */
  readonly poolRecycleMs: number;
  /** The server cancels a statement after this. */
  readonly statementTimeoutMs: number;
  /** How much longer than the server's own limit we wait for its answer: a black hole sends none. Default 2000. */
  readonly answerGraceMs?: number;
  /** A connection above the size is closed after this long without use. Default 10 000. */
  readonly overflowIdleMs?: number;
  readonly applicationName: string;
}

const defaultAnswerGraceMs = 2000;
const connectTimeoutMs = 5000;
const defaultOverflowIdleMs = 10_000;
/** A connection that has been idle for this long is asked whether it still answers before it is handed out. */
const askAfterIdleMs = 5000;
const askTimeoutMs = 1000;
/** After this the server may have said goodbye in words that we have not read yet. */
const readFirstAfterIdleMs = 20;
const idleInTransactionMs = 5000;

/** What every connection of this project is opened with, pooled or not. */
export function connectionConfig(url: string, applicationName: string): pg.ClientConfig {
  return {
    connectionString: url,
    application_name: applicationName,
    connectionTimeoutMillis: connectTimeoutMs,
    keepAlive: true,
    // Node probes each second after this and gives up after ten: an idle half-open socket is noticed within 20 s.
    keepAliveInitialDelayMillis: 10_000,
    idle_in_transaction_session_timeout: idleInTransactionMs,
  };
}

/** A connection lent out by the pool. */
export interface Lent {
  readonly client: pg.PoolClient;
  /** Gives it back; a connection that raised `error` of the kind that breaks it is closed instead. */
  release(error?: unknown): void;
}

/**
 * A pool of at most size + overflow connections in which every wait has a bound and no connection that is known or
 * likely to be broken is handed out.
 *
 * Broken means: it raised an error while idle (the driver's pool drops it), it is older than the recycle time (dropped
 * when idle, or on return), it does not answer a question after a long idle time, or it was last used before the
 * moment another one was found to hang. The last closes the whole set of half-open sockets after one timeout.
 */
export class ConnectionPool {
  readonly #pool: pg.Pool;
  readonly #bounds: PoolBounds;
  readonly #log: Logger;
  readonly #lastUsed = new WeakMap<object, number>();
  readonly #open = new Set<pg.PoolClient>();
  readonly #broken = new WeakSet<object>();
  #closed: Promise<void> | undefined;
  #lent = 0;
  #suspectBefore = 0;
  #greeted = false;

  constructor(url: string, bounds: PoolBounds, log: Logger) {
    this.#bounds = bounds;
    this.#log = log;
    const config = connectionConfig(url, bounds.applicationName);
    // The pool's timeout covers waiting and connecting alike; connecting alone has its own, shorter one.
    class BoundedClient extends pg.Client {
      constructor(given?: string | pg.ClientConfig) {
        const own = typeof given === 'object' ? given : {};
        super({ ...own, connectionTimeoutMillis: Math.min(connectTimeoutMs, bounds.poolTimeoutMs) });
      }
    }
    const options: pg.PoolConfig = {
      ...config,
      max: bounds.poolSize + bounds.maxOverflow,
      min: bounds.poolSize,
      idleTimeoutMillis: bounds.overflowIdleMs ?? defaultOverflowIdleMs,
      connectionTimeoutMillis: bounds.poolTimeoutMs,
      maxLifetimeSeconds: bounds.poolRecycleMs / 1000,
      statement_timeout: bounds.statementTimeoutMs,
      query_timeout: bounds.statementTimeoutMs + (bounds.answerGraceMs ?? defaultAnswerGraceMs),
      Client: BoundedClient,
    };
    // Statements are written as they come and answered in order: BEGIN and the first statement share a round trip.
    // Known to the driver since 8.22, not yet to its types.
    this.#pool = new pg.Pool(Object.assign(options, { pipeline: true }));
    this.#pool.on('error', (error) => log.warning('database.connection_lost', { error, state: 'idle' }));
    this.#pool.on('connect', (client) => this.#opened(client));
    this.#pool.on('remove', (client) => this.#open.delete(client));
  }

  #opened(client: pg.PoolClient): void {
    this.#open.add(client);
    this.#lastUsed.set(client, performance.now());
    // Without a listener a failover ends the process. What the error means for a statement reaches its caller.
    client.on('error', (error) => {
      this.#broken.add(client);
      this.#log.debug('database.connection_error', { error });
    });
    client.on('end', () => this.#broken.add(client));
    if (this.#greeted) return;
    this.#greeted = true;
    this.#log.info('database.ready', { pool: this.#bounds.applicationName });
  }

  /** Connections lent out now. */
  get active(): number {
    return this.#lent;
  }

  /**
   * Lends a connection. Faults: DATABASE_UNAVAILABLE when none can be had in time (`timeoutMs`, at most the pool's own).
   */
  async lend(timeoutMs = this.#bounds.poolTimeoutMs): Promise<Lent> {
    const deadline = performance.now() + Math.min(timeoutMs, this.#bounds.poolTimeoutMs);
    try {
      for (;;) {
        const client = await this.#connect(deadline);
        if (await this.#answers(client)) return this.#lendOut(client);
      }
    } catch (error) {
      throw databaseFault(error, 'none');
    }
  }

  async #connect(deadline: number): Promise<pg.PoolClient> {
    const leftMs = deadline - performance.now();
    if (leftMs <= 0) throw new Error('timeout exceeded when trying to connect');
    const connecting = this.#pool.connect();
    if (leftMs >= this.#bounds.poolTimeoutMs - 1) return connecting;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        // It may still come: then it goes straight back.
        connecting.then(
          (client) => client.release(),
          () => undefined,
        );
        reject(new Error('timeout exceeded when trying to connect'));
      }, leftMs);
    });
    try {
      return await Promise.race([connecting, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #answers(client: pg.PoolClient): Promise<boolean> {
    const lastUsed = this.#lastUsed.get(client) ?? 0;
    // One turn of the event loop, in which a reset or a last word that has arrived is read.
    if (performance.now() - lastUsed > readFirstAfterIdleMs) await nextTurn();
    if (lastUsed < this.#suspectBefore || this.#broken.has(client)) {
      client.release(true);
      return false;
    }
    if (performance.now() - lastUsed < askAfterIdleMs) return true;
    try {
      await client.query(Object.assign({ text: 'SELECT 1' }, { query_timeout: askTimeoutMs }));
      return true;
    } catch (error) {
      this.#suspectBefore = performance.now();
      this.#log.warning('database.connection_lost', { error, state: 'asked' });
      client.release(true);
      return false;
    }
  }

  #lendOut(client: pg.PoolClient): Lent {
    this.#lent += 1;
    let returned = false;
    const release = (error?: unknown) => {
      if (returned) return;
      returned = true;
      this.#lent -= 1;
      const broken = error !== undefined && breaksConnection(error);
      if (broken) this.#suspectBefore = performance.now();
      else this.#lastUsed.set(client, performance.now());
      client.release(broken);
    };
    return { client, release };
  }

  /** Closes all: waits for lent connections up to `timeoutMs`, then cuts those still out. */
  close(timeoutMs: number): Promise<void> {
    this.#closed ??= this.#close(timeoutMs);
    return this.#closed;
  }

  async #close(timeoutMs: number): Promise<void> {
    const ended = this.#pool.end();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), timeoutMs);
    });
    const result = await Promise.race([ended, late]);
    clearTimeout(timer);
    if (result !== 'late') return;
    this.#log.warning('database.close_forced', { connections: this.#open.size });
    for (const client of this.#open) client.connection.stream.destroy();
  }
}
