import { newId } from '@signalbox/contracts/ids';
import type { Outbox } from '@signalbox/messaging/messaging';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { workRow } from './task-payload.ts';
import { updateOf } from './task-state.ts';
import { type TaskStore, taskStore } from './task-store.ts';

const tenant = 'acme';
const outbox: Pick<Outbox, 'writer' | 'committed' | 'failed'> = {
  writer: null,
  committed: () => undefined,
  failed: () => undefined,
};
const tables = ['tasks', 'steps', 'runs', 'lanes'].map((table) => `delegation_worker.${table}`);
let owner: TestDatabase;
let database: Database;

beforeAll(async () => {
  owner = await createTestDatabase();
  database = openDatabase({
    // One connection: a plan is kept by the connection that made it.
    ...{ url: owner.url, poolSize: 1, maxOverflow: 0, poolTimeoutMs: 5_000, poolRecycleMs: 600_000 },
    ...{ applicationName: 'test', log: silentLog, metrics: silentMetrics },
  });
});
afterAll(async () => {
  await database?.close();
  await owner?.drop();
});

/** The life of a task that waits once. Answers how many rows of others it looked at. */
function oneTask(): Promise<number> {
  return database.transaction(async (tx) => {
    const store: TaskStore = taskStore(tx, outbox);
    const id = newId();
    const terms = { owner: newId(), leaseMs: 10_000, formats: [1] };
    const submitted_at = new Date().toISOString();
    const task = {
      ...{ task_id: id, target: { handler: 'echo' }, input: {}, priority: 5, depth: 0, submitted_at },
    };
    const payload = { event_id: newId(), task };
    const at = { attempt: 1, now: new Date() };
    const { claims } = await store.take(
      tx,
      [
        {
          ...{ row: workRow(tenant, payload, undefined), parentTaskId: undefined, priority: 5 },
          deadline: new Date(Date.now() + 60_000),
          update: updateOf(payload, { status: 'queued' }, { seq: 1, ...at }),
        },
      ],
      1,
      terms,
    );
    const [claim] = claims;
    if (claim === undefined) throw new Error('nothing was claimed');
    const before = { owner: terms.owner, fence: claim.fence };
    await store.begin(claim.item, before);
    await store.write(claim.item, before, {
      step: { name: 'turn', kind: 'turn', ref: id },
      end: 'park',
      messages: [],
    });
    const outcome = { tenant, taskId: id, kind: 'turn' as const, ref: id, outcome: { text: 'done' } };
    const [again] = (await store.storeOutcomes(tx, [outcome], 1, terms)).claims;
    if (again === undefined) throw new Error('it does not go on');
    await store.find(tx, [{ tenant, taskId: id }]);
    await store.write(
      again.item,
      { owner: terms.owner, fence: again.fence },
      {
        update: updateOf(payload, { status: 'completed', result: {} }, { seq: 2, ...at }),
        end: 'done',
        messages: [],
      },
    );
    const [read] = await tx.query<{ rows: string }>(
      `select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) as rows from pg_stat_xact_user_tables
       where schemaname = 'delegation_worker'`,
    );
    return Number(read?.rows);
  });
}

test('what is planned while the tables are empty does not look through them when they are full', async () => {
  for (const table of tables) {
    await owner.query(`alter table ${table} set (autovacuum_enabled = false)`);
    await owner.query(`vacuum analyze ${table}`);
  }
  const alone = await oneTask();
  const id = `('00000000-0000-4000-9000-' || lpad(n::text, 12, '0'))`;
  const from = 'from generate_series(1, 3000) n';
  await owner.query(
    `insert into delegation_worker.runs (tenant, id, key, format, payload, state)
     select 'acme', ${id}::uuid, ${id}, 1, '{}', 'parked' ${from}`,
  );
  await owner.query(`insert into delegation_worker.lanes (tenant, key) select 'acme', ${id} ${from}`);
  await owner.query(
    `insert into delegation_worker.tasks (tenant, task_id, parent_task_id, status, seq, deadline_at, last_update)
     select 'acme', ${id}::uuid, gen_random_uuid(), 'running', 1, now() + interval '1 day', '{}' ${from}`,
  );
  await owner.query(
    `insert into delegation_worker.steps (tenant, task_id, name, kind, ref)
     select 'acme', ${id}::uuid, 'turn', 'turn', ${id}::uuid ${from}`,
  );
  expect((await oneTask()) - alone).toBeLessThan(100);
});
