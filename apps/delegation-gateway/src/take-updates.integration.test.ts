import { delegationUpdatesSchema, type TaskStatus } from '@signalbox/contracts/delegation-updates';
import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog as log, silentMetrics as metrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { createTakeUpdates, type UpdateOutcome } from './take-updates.ts';
import { moveTasks } from './update-store.ts';

/** Batches as the runner hands them over: again, halved, and to two owners of a partition at once during a rebalance. */

let test: TestDatabase;
let database: Database;
let offset = 0n;
let outcomes: UpdateOutcome[];
let woken: string[];

beforeAll(async () => {
  test = await createTestDatabase();
  database = openDatabase({
    url: test.url,
    poolSize: 6,
    maxOverflow: 0,
    poolTimeoutMs: 5000,
    poolRecycleMs: 600_000,
    applicationName: 'take-updates-test',
    log,
    metrics,
  });
});
afterAll(async () => {
  await database?.close();
  await test?.drop();
});
beforeEach(() => {
  outcomes = [];
  woken = [];
});

const owner = (epoch = 1) =>
  createTakeUpdates({
    database,
    epoch,
    wake: ({ taskId }, { position }) => woken.push(`${taskId} ${position}`),
    count: (outcome) => outcomes.push(outcome),
  });

function record(tenant: string, taskId: string, seq: number, status: TaskStatus): IntakeRecord {
  const now = new Date().toISOString();
  offset += 1n;
  return {
    topic: 'delegation.updates',
    partition: 0,
    offset,
    key: idKey(tenant, taskId),
    tenant,
    keyId: taskId,
    sessionId: '',
    eventId: newId(),
    eventType: 'task.updated',
    schema: delegationUpdatesSchema,
    headers: {},
    value: {
      ...{ task_id: taskId, seq, status, attempt: 1, target: { handler: 'test' }, depth: 1, priority: 5 },
      ...{ submitted_at: now, updated_at: now },
    },
    bytes: null,
    timestampMs: Date.now(),
    traceparent: undefined,
  };
}

const rowOf = async (taskId: string) =>
  (
    await test.query<{ status: string; seq: number; ended: boolean; last_position: string }>(
      `select status, seq, ended_at is not null as ended, last_position from delegation_gateway.tasks where task_id = $1`,
      [taskId],
    )
  )[0];
const eventsOf = async (taskId: string) =>
  (
    await test.query<{ position: string }>(
      'select position from delegation_gateway.task_events where task_id = $1 order by position',
      [taskId],
    )
  ).map(({ position }) => BigInt(position));

it('a batch that comes again whole, in part or record by record changes nothing', async () => {
  const taskId = newId();
  const records = (['queued', 'running', 'input_required', 'running', 'completed'] as const).map(
    (status, n) => record('acme', taskId, n + 1, status),
  );
  const take = owner();
  await take(records.slice(0, 3));
  await take(records);
  const row = await rowOf(taskId);
  expect(row).toMatchObject({ status: 'completed', seq: 5, ended: true });
  expect(outcomes).toEqual([
    ...['applied', 'applied', 'applied'],
    ...['known', 'known', 'known', 'applied', 'applied'],
  ]);
  for (const each of records) await take([each]);
  expect(await rowOf(taskId)).toEqual(row);
  expect(await eventsOf(taskId)).toEqual(records.map((each) => each.offset));
  expect(woken).toHaveLength(2);
});

it('an event that stands in the log twice is stored once, under the place of the first', async () => {
  const taskId = newId();
  const first = record('acme', taskId, 1, 'completed');
  const second = { ...record('acme', taskId, 1, 'completed'), eventId: first.eventId };
  await owner()([first, second]);
  await owner()([second]);
  expect(outcomes).toEqual(['applied', 'repeat', 'repeat']);
  expect(await eventsOf(taskId)).toEqual([first.offset]);
});

it('two owners with the same records at once, of many tenants and tasks, store each once and wait in one order', async () => {
  const tenants = ['acme', 'globex', 'initech'];
  for (let round = 0; round < 10; round += 1) {
    const tasks = Array.from({ length: 12 }, () => newId());
    const records = [1, 2, 3].flatMap((seq) =>
      tasks.map((taskId, n) =>
        record(tenants[n % 3] ?? '', taskId, seq, seq === 3 ? 'completed' : 'running'),
      ),
    );
    const [one, other] = [owner(), owner()];
    // One has the whole, the other began a little earlier or later and reads it in pieces.
    await Promise.all([
      one(records),
      (async () => {
        for (let at = 0; at < records.length; at += 7) await other(records.slice(at, at + 7));
      })(),
    ]);
    for (const taskId of tasks) {
      expect(await rowOf(taskId)).toMatchObject({ status: 'completed', seq: 3 });
      expect(await eventsOf(taskId)).toHaveLength(3);
    }
    expect(outcomes.filter((outcome) => outcome === 'applied')).toHaveLength(36);
    outcomes.length = 0;
  }
});

it('a place that its task has passed is poison, and nothing of its tenant was stored with it', async () => {
  const taskId = newId();
  const before = record('acme', taskId, 1, 'running');
  await owner()([before]);
  const anew = { ...record('acme', taskId, 2, 'completed'), offset: before.offset };
  for (const offset of [before.offset, before.offset - 1n]) {
    const other = record('acme', newId(), 1, 'running');
    await expect(owner()([other, { ...anew, offset }])).rejects.toMatchObject({ code: 'POISON_RECORD' });
    expect(await rowOf(other.keyId)).toBeUndefined();
  }
  expect(await rowOf(taskId)).toMatchObject({ status: 'running', seq: 1 });
  // A topic made anew begins at 0: with the epoch raised its places are others.
  await owner(2)([anew]);
  expect(await rowOf(taskId)).toMatchObject({
    status: 'completed',
    seq: 2,
    last_position: String(anew.offset),
  });
});

it('a webhook of a task that is not known is left out', async () => {
  const taskId = newId();
  const told: IntakeRecord = {
    ...record('acme', taskId, 1, 'running'),
    eventType: 'webhook.updated',
    value: {
      ...{ task_id: taskId, webhook_id: newId(), status: 'delivered', attempts: 1 },
      updated_at: new Date().toISOString(),
    },
  };
  await owner()([told]);
  expect(outcomes).toEqual(['orphan']);
  expect(await rowOf(taskId)).toBeUndefined();
});

it('rows are seen by their tenant alone, and by nobody without one', async () => {
  const taskId = newId();
  await owner()([record('acme', taskId, 1, 'running')]);
  const seen = (tenant?: string) =>
    database.transaction(
      async (tx) => [
        (await tx.query('select from delegation_gateway.tasks where task_id = $1', [taskId])).length,
        (await tx.query('select from delegation_gateway.task_events where task_id = $1', [taskId])).length,
      ],
      tenant === undefined ? {} : { tenant },
    );
  expect([await seen('acme'), await seen('globex'), await seen()]).toEqual([
    [1, 1],
    [0, 0],
    [0, 0],
  ]);
  for (const write of [
    'update delegation_gateway.tasks set seq = 9',
    'delete from delegation_gateway.tasks',
  ]) {
    const tried = database.transaction((tx) => tx.query(`${write} where task_id = '${taskId}'`), {
      tenant: 'globex',
    });
    await tried.catch(() => undefined);
  }
  expect(await rowOf(taskId)).toMatchObject({ seq: 1 });
});

it('finds the tasks of a batch without looking through those of the tenant', async () => {
  await test.query(
    `insert into delegation_gateway.tasks
       (tenant, task_id, status, target, priority, depth, submitted_at, updated_at)
     select 'crowd', gen_random_uuid(), 'running', '{}', 5, 0, now(), now() from generate_series(1, 5000)`,
  );
  await test.query('analyze delegation_gateway.tasks');
  const [taskId = ''] = (
    await test.query<{ id: string }>(
      "select task_id as id from delegation_gateway.tasks where tenant = 'crowd' limit 1",
    )
  ).map(({ id }) => id);
  const readRows = await database.transaction(
    async (tx) => {
      // More than the five that Postgres plans for their values.
      for (let place = 1n; place <= 8n; place += 1n) {
        const moved = { taskId, update: undefined, state: undefined, endedAt: undefined, webhook: undefined };
        await moveTasks(tx, 'crowd', 1, [{ ...moved, last: { epoch: 1, position: place } }]);
      }
      const [read] = await tx.query<{ rows: string }>(
        `select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) as rows from pg_stat_xact_user_tables
         where schemaname = 'delegation_gateway' and relname = 'tasks'`,
      );
      return Number(read?.rows);
    },
    { tenant: 'crowd' },
  );
  expect(readRows).toBeLessThan(1_000); // versions of the one row; all of them would be 40 000
});
