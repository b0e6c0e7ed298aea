import { newId } from '@signalbox/contracts/ids';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, beforeEach } from 'vitest';
import {
  type Claim,
  type ClaimTerms,
  type Holder,
  type WorkQueue,
  type WorkRow,
  workQueue,
} from '../src/queue.ts';
import { queueCancelSql, queueSql } from '../src/queue-migration.ts';

/** A queue of its own in a database of its own, seen as a service sees it. */
export interface TestQueue {
  readonly owner: TestDatabase;
  readonly database: Database;
  readonly queue: WorkQueue;
  /** Another connection pool to the same queue, maybe through a proxy. */
  open(url?: string): Database;
  claim(owner: string, limit?: number, options?: ClaimOptions): Promise<Claim[]>;
  /** A work row as it stands. */
  item(id: string): Promise<Record<string, unknown>>;
  /** How many items are in each state. */
  states(): Promise<Record<string, number>>;
  /** Resolves when some statement waits for another transaction's lock. */
  lockWait(): Promise<void>;
  /** Resolves when the one lease that there is has run out. */
  leaseOver(): Promise<void>;
}

export interface ClaimOptions {
  readonly leaseMs?: number;
  readonly expired?: boolean;
  readonly after?: string;
}

export const schema = 'work_test';
export const queueNames = { schema, items: 'items', roles: ['signalbox_conversation_worker'] };

/** Made before the first test of the file, emptied before each, dropped after the last. */
export function ownTestQueue(): TestQueue {
  let owner: TestDatabase;
  let database: Database;
  let queue: WorkQueue;
  const opened: Database[] = [];
  const open = (url = owner.url) => {
    const pool = openDatabase({
      url,
      poolSize: 4,
      maxOverflow: 0,
      poolTimeoutMs: 3000,
      poolRecycleMs: 600_000,
      applicationName: 'work-test',
      log: silentLog,
      metrics: silentMetrics,
    });
    opened.push(pool);
    return pool;
  };
  beforeAll(async () => {
    owner = await createTestDatabase();
    await runSql(owner, queueSql(queueNames) + queueCancelSql(queueNames));
    database = open();
    queue = workQueue(database, schema);
  });
  beforeEach(async () => {
    // A claim of a worker of the test before may still be on its way at the server, and would take what this one enters.
    const busy = `SELECT 1 FROM pg_stat_activity
      WHERE datname = $1 AND state <> 'idle' AND pid <> pg_backend_pid() AND backend_type = 'client backend'`;
    await waitFor(
      () => owner.query(busy, [owner.name]),
      (statements) => statements.length === 0,
    );
    await owner.query(`DELETE FROM ${schema}.items`);
    await owner.query(`DELETE FROM ${schema}.lanes`);
  });
  afterAll(async () => {
    await Promise.all(opened.map((each) => each.close()));
    await owner.drop();
  });
  return {
    get owner() {
      return owner;
    },
    get database() {
      return database;
    },
    get queue() {
      return queue;
    },
    open,
    claim: (id, limit = 10, { leaseMs, expired = false, after = '' } = {}) =>
      queue.claim(terms(id, leaseMs), limit, expired, after),
    async item(id) {
      const sql = `SELECT * FROM ${schema}.items WHERE id = $1`;
      const [found] = await owner.query<Record<string, unknown>>(sql, [id]);
      return found ?? {};
    },
    async states() {
      const sql = `SELECT state, count(*)::int AS n FROM ${schema}.items GROUP BY state`;
      const rows = await owner.query<{ state: string; n: number }>(sql);
      return Object.fromEntries(rows.map(({ state, n }) => [state, n]));
    },
    async lockWait() {
      const sql = `SELECT 1 FROM pg_stat_activity
        WHERE datname = $1 AND wait_event_type = 'Lock' AND state = 'active'`;
      await waitFor(
        () => owner.query(sql, [owner.name]),
        (rows) => rows.length > 0,
      );
    },
    async leaseOver() {
      const sql = `SELECT until < clock_timestamp() AS over FROM ${schema}.lanes`;
      await waitFor(
        () => owner.query<{ over: boolean }>(sql),
        ([lane]) => lane?.over === true,
      );
    },
  };
}

/** One statement for the driver: DO runs the many of a migration. */
export async function runSql(owner: TestDatabase, sql: string): Promise<void> {
  await owner.query(`DO $do$ BEGIN EXECUTE $sql$${sql}$sql$; END; $do$`);
}

export const terms = (owner: string, leaseMs = 5000, formats: readonly number[] = [1]): ClaimTerms => ({
  owner,
  leaseMs,
  formats,
});

export const holder = (owner: string, { fence }: Claim): Holder => ({ owner, fence });

export function first([found]: readonly Claim[]): Claim {
  if (found === undefined) throw new Error('nothing was claimed');
  return found;
}

export function row(key: string, tenant = 'acme', more: Partial<WorkRow> = {}): WorkRow {
  return { tenant, key, id: newId(), payload: {}, ...more };
}
