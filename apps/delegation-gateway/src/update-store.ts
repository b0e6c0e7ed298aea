import type { StreamPosition } from '@signalbox/api/stream-id';
import { groupByTenant } from '@signalbox/api/tenant-rows';
import type { TaskUpdated, WebhookUpdated } from '@signalbox/contracts/delegation-updates';
import type { Database, Queryable, Transaction } from '@signalbox/postgres/database';
import { eventOf, type TaskEvent, type TaskRef } from './task-event.ts';
import type { TaskState } from './task-state.ts';

/** What delegation.updates writes, and what streams read of it. */

export interface StandingTask {
  readonly task_id: string;
  readonly status: TaskState['status'];
  readonly seq: number;
  readonly last_epoch: number | null;
  readonly last_position: string | null;
}

const lockStatement = {
  name: 'delegation_lock_tasks',
  text: `select task_id, status, seq, last_epoch, last_position from delegation_gateway.tasks
    where tenant = $1 and task_id = any($2::uuid[]) order by task_id for update`,
};

/** Locks the rows of these tasks in key order, for this transaction. Those that are not there are left out. */
export function lockTasks(
  tx: Transaction,
  tenant: string,
  taskIds: readonly string[],
): Promise<StandingTask[]> {
  return tx.query<StandingTask>(lockStatement, [tenant, taskIds]);
}

const adoptStatement = {
  name: 'delegation_adopt_tasks',
  text: `insert into delegation_gateway.tasks
      (tenant, task_id, status, target, priority, depth, parent_task_id, origin, deadline_at, submitted_at, updated_at)
    select $1, (u ->> 'task_id')::uuid, 'queued', u -> 'target', (u ->> 'priority')::smallint, (u ->> 'depth')::int,
           (u ->> 'parent_task_id')::uuid, u -> 'origin', (u ->> 'deadline_at')::timestamptz,
           date_trunc('milliseconds', (u ->> 'submitted_at')::timestamptz), (u ->> 'updated_at')::timestamptz
      from json_array_elements($2::json) u order by u ->> 'task_id'
    on conflict do nothing`,
};

/** Makes rows, as nothing had been told of them yet, for tasks that were not submitted here. */
export async function adoptTasks(
  tx: Transaction,
  tenant: string,
  firstUpdates: readonly TaskUpdated[],
): Promise<void> {
  await tx.query(adoptStatement, [tenant, JSON.stringify(firstUpdates)]);
}

const storedStatement = {
  name: 'delegation_stored_events',
  text: `select event_id, epoch, position from delegation_gateway.task_events
    where tenant = $1 and event_id = any($2::uuid[])`,
};

/** Which of these events are stored, and where. */
export async function storedEvents(
  tx: Transaction,
  tenant: string,
  eventIds: readonly string[],
): Promise<Map<string, StreamPosition>> {
  const rows = await tx.query<{ event_id: string; epoch: number; position: string }>(storedStatement, [
    tenant,
    eventIds,
  ]);
  return new Map(
    rows.map((row) => [row.event_id, { epoch: row.epoch, position: BigInt(row.position) }] as const),
  );
}

export interface NewEvent {
  readonly taskId: string;
  readonly position: bigint;
  readonly eventId: string;
  readonly type: string;
  readonly data: string;
}

const insertStatement = {
  name: 'delegation_insert_events',
  text: `insert into delegation_gateway.task_events (tenant, task_id, epoch, position, event_id, event_type, data)
    select $1, e.task_id, $2, e.position, e.event_id, e.event_type, e.data
      from unnest($3::uuid[], $4::bigint[], $5::uuid[], $6::text[], $7::text[])
        e(task_id, position, event_id, event_type, data)
      order by e.task_id, e.position`,
};

/** Stores events that are not there yet, of tasks that are locked. */
export async function insertEvents(
  tx: Transaction,
  tenant: string,
  epoch: number,
  events: readonly NewEvent[],
): Promise<void> {
  await tx.query(insertStatement, [
    tenant,
    epoch,
    events.map((each) => each.taskId),
    events.map((each) => each.position.toString()),
    events.map((each) => each.eventId),
    events.map((each) => each.type),
    events.map((each) => each.data),
  ]);
}

/** What became of a task in a batch. */
export interface MovedTask {
  readonly taskId: string;
  /** Of its last update in the batch that was applied. */
  readonly update: TaskUpdated | undefined;
  readonly state: TaskState | undefined;
  readonly endedAt: string | undefined;
  readonly webhook: WebhookUpdated | undefined;
  readonly last: StreamPosition;
}

const moveStatement = {
  name: 'delegation_move_tasks',
  text: `update delegation_gateway.tasks t set
      status = coalesce(m ->> 'status', t.status),
      seq = coalesce((m ->> 'seq')::int, t.seq),
      attempt = coalesce((m ->> 'attempt')::int, t.attempt),
      progress = case when m ->> 'seq' is not null then m ->> 'progress' else t.progress end,
      result = case when m ->> 'seq' is not null then m -> 'result' else t.result end,
      error = case when m ->> 'seq' is not null then m -> 'error' else t.error end,
      updated_at = coalesce((m ->> 'updated_at')::timestamptz, t.updated_at),
      ended_at = coalesce((m ->> 'ended_at')::timestamptz, t.ended_at),
      webhook = coalesce(m -> 'webhook', t.webhook),
      last_epoch = $2, last_position = (m ->> 'position')::bigint
    from json_array_elements($3::json) m
    where t.tenant = $1 and t.task_id = any($4::uuid[]) and t.task_id = (m ->> 'task_id')::uuid`,
};

/**
 * Moves tasks on; their rows are locked already. Their ids are given apart: nothing else tells the planner that it must not
 * read all tasks of the tenant to find them (110 ms a batch with 100 000).
 */
export async function moveTasks(
  tx: Transaction,
  tenant: string,
  epoch: number,
  moved: readonly MovedTask[],
): Promise<void> {
  const rows = moved.map(({ taskId, update, state, endedAt, webhook, last }) => ({
    task_id: taskId,
    position: last.position.toString(),
    ...(update === undefined ? {} : { attempt: update.attempt, updated_at: update.updated_at }),
    ...state,
    ...(endedAt === undefined ? {} : { ended_at: endedAt }),
    ...(webhook === undefined ? {} : { webhook: webhookView(webhook) }),
  }));
  await tx.query(moveStatement, [tenant, epoch, JSON.stringify(rows), moved.map(({ taskId }) => taskId)]);
}

function webhookView({ status, attempts, last_error, updated_at }: WebhookUpdated) {
  return { status, attempts, ...(last_error === undefined ? {} : { last_error }), updated_at };
}

const eventsStatement = {
  name: 'delegation_events_after',
  text: `select epoch, position, event_type, data from delegation_gateway.task_events
    where tenant = $1 and task_id = $2 and (epoch, position) > ($3, $4)
    order by epoch, position limit $5`,
};

/** Stored events of a task behind a place, lowest first. */
export async function eventsAfter(
  database: Database,
  { tenant, taskId }: TaskRef,
  after: StreamPosition,
  limit: number,
): Promise<TaskEvent[]> {
  const rows = await database.transaction(
    (tx) =>
      tx.query<{ epoch: number; position: string; event_type: string; data: string }>(eventsStatement, [
        tenant,
        taskId,
        after.epoch,
        after.position.toString(),
        limit,
      ]),
    { tenant },
  );
  return rows.map((row) =>
    eventOf({ epoch: row.epoch, position: BigInt(row.position) }, row.event_type, row.data),
  );
}

const placesStatement = {
  name: 'delegation_last_places',
  text: 'select ord, epoch, place from delegation_gateway.last_places($1, $2, $3)',
};

/** The place of the last event of each task, at its index; undefined where there is none. */
export async function lastPlaces(
  database: Queryable,
  tasks: readonly TaskRef[],
): Promise<(StreamPosition | undefined)[]> {
  const { tenants, upto, rows, origin } = groupByTenant(tasks);
  const found = await database.query<{ ord: number; epoch: number; place: string }>(placesStatement, [
    tenants,
    upto,
    rows.map(({ taskId }) => taskId),
  ]);
  const places = new Array<StreamPosition | undefined>(tasks.length).fill(undefined);
  for (const { ord, epoch, place } of found) {
    const index = origin[ord - 1];
    if (index !== undefined) places[index] = { epoch, position: BigInt(place) };
  }
  return places;
}
