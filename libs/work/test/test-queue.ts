import { newId } from '@signalbox/contracts/ids';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { waitFor } from '@signalbox/testkit/wait';
import { type Claim, type WorkQueue, type WorkRow, workQueue } from '../src/queue.ts';
import { queueCancelSql, queueSql } from '../src/queue-migration.ts';

/** A queue of its own in a database of its own, seen as a service sees it. */
export interface TestQueue {
  readonly owner: TestDatabase;
  readonly database: Database;
  readonly queue: WorkQueue;
  /** Another connection pool to the same queue, maybe through a proxy. */
  open(url?: string): Database;
  /** Empties it. */
  clear(): Promise<void>;
  /** A work row as it stands. */
  item(id: string): Promise<Record<string, unknown>>;
  /** The first claim; throws if there is none. */
  first(claims: readonly Claim[]): Claim;
  /** Resolves when some statement waits for another transaction's lock. */
  lockWait(): Promise<void>;
  close(): Promise<void>;
}

export const schema = 'work_test';

export async function createTestQueue(): Promise<TestQueue> {
  const owner = await createTestDatabase();
  // One statement for the driver: DO runs the many of the migration.
  const names = { schema, items: 'items', roles: ['signalbox_conversation_worker'] };
  const sql = queueSql(names) + queueCancelSql(names);
  await owner.query(`DO $do$ BEGIN EXECUTE $sql$${sql}$sql$; END; $do$`);
  const opened: Database[] = [];
  const open = (url = owner.url) => {
    const database = openDatabase({
      url,
      poolSize: 4,
      maxOverflow: 0,
      poolTimeoutMs: 3000,
      poolRecycleMs: 600_000,
      applicationName: 'work-test',
      log: silentLog,
      metrics: silentMetrics,
    });
    opened.push(database);
    return database;
  };
  const database = open();
  return {
    owner,
    database,
    queue: workQueue(database, schema),
    open,
    async clear() {
      await owner.query(`DELETE FROM ${schema}.items`);
      await owner.query(`DELETE FROM ${schema}.lanes`);
    },
    async item(id) {
      const [found] = await owner.query<Record<string, unknown>>(
        `SELECT * FROM ${schema}.items WHERE id = $1`,
        [id],
      );
      return found ?? {};
    },
    first([found]) {
      if (found === undefined) throw new Error('nothing was claimed');
      return found;
    },
    async lockWait() {
      await waitFor(
        () =>
          owner.query(
            `SELECT 1 FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock' AND state = 'active'`,
            [owner.name],
          ),
        (rows) => rows.length > 0,
      );
    },
    async close() {
      await Promise.all(opened.map((each) => each.close()));
      await owner.drop();
    },
  };
}

export function row(key: string, tenant = 'acme', more: Partial<WorkRow> = {}): WorkRow {
  return { tenant, key, id: newId(), payload: {}, ...more };
}
