import { fault, isFault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type pg from 'pg';
import { breaksConnection, databaseFault } from './classify-error.ts';
import type { Lent } from './connection-pool.ts';

/** A statement; with a name it is prepared once a connection and its plan kept. One name, one text. */
export type Statement = string | { readonly name: string; readonly text: string };

export interface Queryable {
  /** Runs one statement, its own transaction unless inside one. The row type is the caller's word, as in all SQL. */
  query<R = unknown>(statement: Statement, values?: readonly unknown[]): Promise<R[]>;
}

export interface Transaction extends Queryable {
  /** Called after the commit, in order, before `transaction` resolves. What it throws is logged: the commit stands. */
  afterCommit(run: () => void): void;
  /** Called when the transaction did not commit, or its outcome is unknown. Must not throw. */
  afterRollback(run: (outcome: 'none' | 'unknown') => void): void;
}

/** Runs a statement on a connection; `timeoutMs` only where it is shorter than the pool's own bound. */
export async function runStatement<R>(
  client: pg.PoolClient,
  statement: Statement,
  values?: readonly unknown[],
  timeoutMs?: number,
): Promise<R[]> {
  const named = typeof statement === 'string' ? { text: statement } : statement;
  const bounded = timeoutMs === undefined ? named : { ...named, query_timeout: Math.max(1, timeoutMs) };
  const result = await client.query<R & pg.QueryResultRow>(
    values === undefined ? bounded : { ...bounded, values: [...values] },
  );
  return result.rows;
}

interface Running<T> {
  readonly lend: (timeoutMs?: number) => Promise<Lent>;
  readonly work: (tx: Transaction) => Promise<T>;
  readonly tenant: string | undefined;
  /** Monotonic milliseconds. */
  readonly deadline: number | undefined;
  readonly log: Logger;
}

const tenantForm = /^[a-z0-9-]{1,40}$/;

/** The text is sent as one simple query, so the tenant stands in it: only its narrow form gets that far. */
function beginText(tenant: string | undefined): string {
  if (tenant === undefined) return 'BEGIN';
  if (!tenantForm.test(tenant)) throw fault('INTERNAL_ERROR', 'not a tenant id', { details: { tenant } });
  return `BEGIN; SELECT set_config('app.tenant', '${tenant}', true)`;
}

/**
 * BEGIN is written together with the first statement of the work (the connection pipelines), which saves a round trip.
 * If BEGIN itself fails the connection is gone, and everything behind it fails too; if set_config fails, the open
 * transaction is aborted and refuses every statement.
 */
export async function runTransaction<T>(running: Running<T>): Promise<T> {
  const { work, tenant, deadline, log } = running;
  const begin = beginText(tenant);
  const leftMs = () => (deadline === undefined ? undefined : deadline - performance.now());
  const afterCommit: (() => void)[] = [];
  const afterRollback: ((outcome: 'none' | 'unknown') => void)[] = [];
  let lent: Lent | undefined;
  let commitSent = false;
  let over = false;
  let broken: unknown;

  const send = async <R>(statement: Statement, values?: readonly unknown[]): Promise<R[]> => {
    if (lent === undefined || over) throw fault('INTERNAL_ERROR', 'this transaction has ended');
    const timeoutMs = leftMs();
    if (timeoutMs !== undefined && timeoutMs <= 0) {
      throw databaseFault(new Error('Query read timeout'), commitSent ? 'unknown' : 'none');
    }
    try {
      return await runStatement<R>(lent.client, statement, values, timeoutMs);
    } catch (error) {
      if (breaksConnection(error)) broken = error;
      throw databaseFault(error, commitSent ? 'unknown' : 'none');
    }
  };

  try {
    lent = await running.lend(leftMs());
    const begun = send(begin);
    begun.catch(() => undefined);
    const result = await work({
      query: send,
      afterCommit: (run) => void afterCommit.push(run),
      afterRollback: (run) => void afterRollback.push(run),
    });
    await begun;
    commitSent = true;
    const answer = await commit(lent.client, leftMs()).catch((error: unknown) => {
      if (breaksConnection(error)) broken = error;
      throw databaseFault(error, 'unknown');
    });
    over = true;
    if (answer !== 'COMMIT') {
      // A statement failed, the work caught the error and went on: nothing was stored.
      throw fault('INTERNAL_ERROR', 'the transaction was rolled back because a statement in it had failed');
    }
    lent.release();
    lent = undefined;
    callAll(afterCommit, log);
    return result;
  } catch (error) {
    const wasOver = over;
    over = true;
    if (lent !== undefined) await giveBack(lent, wasOver || commitSent, broken);
    const outcome = isFault(error) && error.details?.outcome === 'unknown' ? 'unknown' : 'none';
    callAll(
      afterRollback.map((run) => () => run(outcome)),
      log,
    );
    throw error;
  }
}

async function commit(client: pg.PoolClient, timeoutMs: number | undefined): Promise<string> {
  const text = { text: 'COMMIT' };
  const answer = await client.query(
    timeoutMs === undefined ? text : Object.assign(text, { query_timeout: Math.max(1, timeoutMs) }),
  );
  return answer.command;
}

async function giveBack(lent: Lent, ended: boolean, broken: unknown): Promise<void> {
  if (broken !== undefined || ended) {
    lent.release(broken);
    return;
  }
  try {
    await lent.client.query('ROLLBACK');
    lent.release();
  } catch (error) {
    lent.release(breaksConnection(error) ? error : new Error('Connection terminated', { cause: error }));
  }
}

function callAll(calls: readonly (() => void)[], log: Logger): void {
  for (const call of calls) {
    try {
      call();
    } catch (error) {
      log.error('database.after_transaction_failed', { error });
    }
  }
}
