import { newId } from '@signalbox/contracts/ids';
import { isFault } from '@signalbox/faults/fault';
import type { Outbox } from '@signalbox/messaging/messaging';
import { sqlState } from '@signalbox/postgres/classify-error';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { type Claim, type ClaimTerms, workQueue } from '@signalbox/work/queue';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { updateMessage } from './task-messages.ts';
import { type TaskPayload, workRow } from './task-payload.ts';
import { type TaskState, updateOf } from './task-state.ts';
import { type NewTask, type TaskStore, taskStore, type WaitOutcome } from './task-store.ts';

const tenant = 'acme';
const outbox: Pick<Outbox, 'writer' | 'committed' | 'failed'> = {
  writer: null,
  committed: () => undefined,
  failed: () => undefined,
};
let owner: TestDatabase;
let database: Database;
let store: TaskStore;

beforeAll(async () => {
  owner = await createTestDatabase();
  database = openDatabase({
    ...{ url: owner.url, poolSize: 4, maxOverflow: 0, poolTimeoutMs: 5_000, poolRecycleMs: 600_000 },
    ...{ applicationName: 'test', log: silentLog, metrics: silentMetrics },
  });
  store = taskStore(database, outbox);
});
afterAll(async () => {
  await database?.close();
  await owner?.drop();
});

const terms = (process = newId()): ClaimTerms => ({ owner: process, leaseMs: 10_000, formats: [1] });
const payloadFor = (id: string, of: Partial<TaskPayload['task']> = {}): TaskPayload => ({
  event_id: newId(),
  task: {
    ...{ task_id: id, target: { handler: 'echo' }, input: {}, priority: 5, depth: 0 },
    submitted_at: new Date().toISOString(),
    ...of,
  },
});
const next = (payload: TaskPayload, state: TaskState, seq: number) =>
  updateOf(payload, state, { seq, attempt: 1, now: new Date() });
const newTask = (payload: TaskPayload, of = tenant): NewTask => ({
  row: workRow(of, payload, undefined),
  parentTaskId: payload.task.parent_task_id,
  deadline: new Date(Date.now() + 60_000),
  priority: payload.task.priority,
  update: next(payload, { status: 'queued' }, 1),
});

/** A task that was taken in and claimed. */
async function running(process = newId()): Promise<{ claim: Claim; payload: TaskPayload; owner: string }> {
  const payload = payloadFor(newId());
  const { claims } = await store.take(database, [newTask(payload)], 1, terms(process));
  const [claim] = claims;
  if (claim === undefined) throw new Error('nothing was claimed');
  return { claim, payload, owner: process };
}
const holder = ({ claim, owner: by }: { claim: Claim; owner: string }) => ({ owner: by, fence: claim.fence });
const statusOf = async (id: string) =>
  (
    await owner.query<{ status: string; seq: number }>(
      'SELECT status, seq FROM delegation_worker.tasks WHERE task_id = $1',
      [id],
    )
  )[0];
const tell = (
  held: Awaited<ReturnType<typeof running>>,
  state: TaskState,
  seq: number,
  end?: 'done' | 'failed',
) => {
  const update = next(held.payload, state, seq);
  return store.write(held.claim.item, holder(held), {
    update,
    end,
    messages: [updateMessage(tenant, held.payload, update)],
  });
};

test('one submission at two intakes at once is one task', async () => {
  const payload = payloadFor(newId());
  const taken = await Promise.all(
    [1, 2, 3].map(() => database.transaction((tx) => store.take(tx, [newTask(payload)], 1, terms()))),
  );
  expect(taken.flatMap((each) => each.taken)).toEqual([
    { tenant, taskId: payload.task.task_id, claimed: true },
  ]);
  expect(taken.flatMap((each) => each.claims)).toHaveLength(1);
});

test('the same id of two tenants, in one batch, is two tasks', async () => {
  const payload = payloadFor(newId());
  const { taken, claims } = await store.take(
    database,
    [newTask(payload), newTask(payload, 'globex')],
    1, // one slot for both
    terms(),
  );
  expect(taken.map(({ tenant: of }) => of)).toEqual(['acme', 'globex']);
  expect(taken.filter(({ claimed }) => claimed).map(({ tenant: of }) => of)).toEqual(
    claims.map(({ item }) => item.tenant),
  );
  expect(claims).toHaveLength(1);
});

test('whatever the code believes, a status never goes backwards and an end stays', async () => {
  const held = await running();
  const { item } = held.claim;
  const refused = async (work: Promise<unknown>) => {
    const error = await work.catch((thrown: unknown) => thrown);
    expect(isFault(error) ? sqlState(error) : error).toBe('23514');
  };
  await tell(held, { status: 'input_required', prompt: 'what?' }, 2);
  await refused(tell(held, { status: 'completed', result: {} }, 3));
  await refused(tell(held, { status: 'queued' }, 3));
  await refused(tell(held, { status: 'running' }, 2)); // another update under a number that was told
  await refused(tell(held, { status: 'running' }, 4)); // a number that was left out
  await tell(held, { status: 'running' }, 3);
  await tell(held, { status: 'completed', result: {} }, 4, 'done');
  const update = next(held.payload, { status: 'cancelled', error: { error_code: 'X', message: '' } }, 5);
  await refused(store.update(database, { tenant, taskId: item.id }, update, []));
  expect(await statusOf(item.id)).toEqual({ status: 'completed', seq: 4 });
});

test('a write whose commit was not answered is repeated without a second effect', async () => {
  const held = await running();
  const update = next(held.payload, { status: 'running', progress: 'half' }, 2);
  const write = { step: { name: 'one', kind: 'run' as const, outcome: { a: 1 } }, update, messages: [] };
  await store.write(held.claim.item, holder(held), write);
  await store.write(held.claim.item, holder(held), write);
  expect(await store.begin(held.claim.item, holder(held))).toMatchObject({
    seq: 2,
    steps: [{ name: 'one', kind: 'run', outcome: { a: 1 } }],
  });
});

test('a holder whose lane is another’s writes nothing', async () => {
  const held = await running();
  const late = { ...holder(held), fence: held.claim.fence - 1 };
  const update = next(held.payload, { status: 'running', progress: 'late' }, 2);
  for (const work of [
    () => store.begin(held.claim.item, late),
    () => store.write(held.claim.item, late, { update, messages: [] }),
  ]) {
    await expect(work()).rejects.toMatchObject({ code: 'LEASE_LOST' });
  }
  expect(await statusOf(held.claim.item.id)).toEqual({ status: 'running', seq: 1 });
});

test('one result that two replicas store at once counts once, and one of them goes on with the task', async () => {
  const held = await running();
  const ref = newId();
  await store.write(held.claim.item, holder(held), {
    step: { name: 'turn', kind: 'turn', ref },
    end: 'park',
    messages: [],
  });
  const outcome: WaitOutcome = {
    tenant,
    taskId: held.claim.item.id,
    kind: 'turn',
    ref,
    outcome: { text: 'done' },
  };
  const stored = await Promise.all(
    [1, 2].map(() => database.transaction((tx) => store.storeOutcomes(tx, [outcome], 1, terms()))),
  );
  expect(stored.flatMap(({ verdicts }) => verdicts.map(({ verdict }) => verdict)).sort()).toEqual([
    'applied',
    'repeat',
  ]);
  expect(stored.flatMap(({ claims }) => claims)).toHaveLength(1);
});

test('rows go with their task, when that has been over for long enough', async () => {
  const held = await running();
  await store.write(held.claim.item, holder(held), {
    step: { name: 'one', kind: 'run', outcome: {} },
    messages: [],
  });
  await tell(held, { status: 'completed', result: {} }, 2, 'done');
  const open = await running();
  expect(await store.prune(60_000, 100)).toBe(0);
  await owner.query(
    `ALTER TABLE delegation_worker.tasks DISABLE TRIGGER go_forward;
     UPDATE delegation_worker.tasks SET ended_at = ended_at - interval '9 days' WHERE ended_at IS NOT NULL;
     ALTER TABLE delegation_worker.tasks ENABLE TRIGGER go_forward;`,
  );
  expect(await store.prune(8 * 86_400_000, 100)).toBeGreaterThan(0);
  expect(await statusOf(held.claim.item.id)).toBeUndefined();
  expect(await statusOf(open.claim.item.id)).toBeDefined();
  const steps = 'SELECT 1 FROM delegation_worker.steps WHERE task_id = $1';
  expect(await owner.query(steps, [held.claim.item.id])).toEqual([]);
});

test('the service reaches its tables by its functions only, and every table forces row level security', async () => {
  for (const table of ['tasks', 'steps', 'inputs', 'runs', 'lanes']) {
    await expect(database.query(`SELECT 1 FROM delegation_worker.${table}`)).rejects.toMatchObject({
      code: 'INTERNAL_ERROR',
    });
  }
  const [forced] = await owner.query<{ all: boolean }>(
    `SELECT bool_and(relrowsecurity AND relforcerowsecurity) AS all FROM pg_class
     WHERE relnamespace IN ('delegation_worker'::regnamespace, 'delegation_webhooks'::regnamespace) AND relkind = 'r'`,
  );
  expect(forced?.all).toBe(true);
});

test('a task that waited goes on by its own priority', async () => {
  const queue = workQueue(database, 'delegation_worker');
  const urgent = payloadFor(newId(), { priority: 9 });
  await store.take(database, [newTask(urgent, 'urgency')], 1, terms());
  const [lane] = await owner.query<{ priority: number }>(
    `SELECT priority FROM delegation_worker.lanes WHERE tenant = 'urgency'`,
  );
  expect(lane?.priority).toBe(9);
  await store.take(database, [newTask(payloadFor(newId()), 'urgency')], 0, terms());
  expect(await queue.claim(terms(), 1, false, 'urgencx')).toHaveLength(1);
});
