import { newId } from '@signalbox/contracts/ids';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { type WorkQueue, type WorkRow, workQueue } from '../src/queue.ts';
import { queueSql } from '../src/queue-migration.ts';

/** A queue of its own in a database of its own, seen as a service sees it. */
export interface TestQueue {
  readonly owner: TestDatabase;
  readonly database: Database;
  readonly queue: WorkQueue;
  /** Another connection pool to the same queue, maybe through a proxy. */
  open(url?: string): Database;
  close(): Promise<void>;
}

export const schema = 'work_test';

export async function createTestQueue(): Promise<TestQueue> {
  const owner = await createTestDatabase();
  // One statement for the driver: DO runs the many of the migration.
  const sql = queueSql({ schema, items: 'items', roles: ['signalbox_conversation_worker'] });
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
    async close() {
      await Promise.all(opened.map((each) => each.close()));
      await owner.drop();
    },
  };
}

export function row(key: string, tenant = 'acme', more: Partial<WorkRow> = {}): WorkRow {
  return { tenant, key, id: newId(), payload: {}, ...more };
}
