import type { StreamPosition } from '@signalbox/api/stream-id';
import type { TaskSubmitted, TaskTarget } from '@signalbox/contracts/delegation-tasks';
import type { TaskStatus } from '@signalbox/contracts/delegation-updates';
import type { Database, Queryable, Transaction } from '@signalbox/postgres/database';
import type { TaskRef } from './task-event.ts';

/** Tasks of one tenant as the API submits, shows and steers them. Each statement runs under row level security. */

const submitStatement = {
  name: 'delegation_submit_task',
  text: `insert into delegation_gateway.tasks
      (tenant, task_id, status, target, priority, depth, deadline_at, callback_url, metadata, body_hash,
       submitted_at, updated_at)
    values ($1, $2, 'queued', $3, $4, 0, $5, $6, $7, $8, $9, $9)
    on conflict do nothing returning task_id`,
};

/** False when the tenant has a task of this id. Waits for another transaction that is making it. */
export async function insertTask(
  tx: Transaction,
  tenant: string,
  task: TaskSubmitted,
  bodyHash: Buffer,
): Promise<boolean> {
  const rows = await tx.query(submitStatement, [
    tenant,
    task.task_id,
    JSON.stringify(task.target),
    task.priority,
    task.deadline_at ?? null,
    task.callback_url ?? null,
    task.metadata === undefined ? null : JSON.stringify(task.metadata),
    bodyHash,
    task.submitted_at,
  ]);
  return rows.length > 0;
}

const standingStatement = {
  name: 'delegation_task_standing',
  text: `select status, body_hash from delegation_gateway.tasks where tenant = $1 and task_id = $2`,
};

export interface Standing {
  readonly status: TaskStatus;
  /** Null: it was not submitted here. */
  readonly body_hash: Buffer | null;
}

/** Undefined when the task is not the tenant's. */
export async function findStanding(
  tx: Queryable,
  { tenant, taskId }: TaskRef,
): Promise<Standing | undefined> {
  const [row] = await tx.query<Standing>(standingStatement, [tenant, taskId]);
  return row;
}

const askingStatement = {
  name: 'delegation_task_asking',
  text: `select status, seq, answered_seq, answered_input_id, answered_hash from delegation_gateway.tasks
    where tenant = $1 and task_id = $2 for update`,
};

export interface Asking {
  readonly status: TaskStatus;
  readonly seq: number;
  /** The asking that has its answer, and which: its id and SHA-256. */
  readonly answered_seq: number | null;
  readonly answered_input_id: string | null;
  readonly answered_hash: Buffer | null;
}

/** What the task asks for now; its row is locked, so that one asking gets one answer. */
export async function lockAsking(tx: Transaction, { tenant, taskId }: TaskRef): Promise<Asking | undefined> {
  const [row] = await tx.query<Asking>(askingStatement, [tenant, taskId]);
  return row;
}

const answerStatement = {
  name: 'delegation_task_answered',
  text: `update delegation_gateway.tasks set answered_seq = seq, answered_input_id = $3, answered_hash = $4
    where tenant = $1 and task_id = $2`,
};

export async function keepAnswered(
  tx: Transaction,
  { tenant, taskId }: TaskRef,
  inputId: string,
  hash: Buffer,
): Promise<void> {
  await tx.query(answerStatement, [tenant, taskId, inputId, hash]);
}

export interface TaskRow {
  readonly task_id: string;
  readonly status: TaskStatus;
  readonly seq: number;
  readonly attempt: number;
  readonly target: TaskTarget;
  readonly priority: number;
  readonly depth: number;
  readonly parent_task_id: string | null;
  readonly origin: TaskSubmitted['origin'] | null;
  readonly deadline_at: Date | null;
  readonly progress: string | null;
  readonly result: Record<string, unknown> | null;
  readonly error: { readonly error_code: string; readonly message: string } | null;
  readonly callback_url: string | null;
  readonly webhook: WebhookView | null;
  readonly metadata: Record<string, unknown> | null;
  readonly submitted_at: Date;
  readonly updated_at: Date;
  readonly ended_at: Date | null;
}

interface WebhookView {
  readonly status: 'delivered' | 'failed';
  readonly attempts: number;
  readonly last_error?: string;
  readonly updated_at: string;
}

const shown = `task_id, status, seq, attempt, target, priority, depth, parent_task_id, origin, deadline_at, progress,
  error, callback_url, webhook, metadata, submitted_at, updated_at, ended_at`;

const readStatement = {
  name: 'delegation_read_task',
  text: `select ${shown}, result from delegation_gateway.tasks where tenant = $1 and task_id = $2`,
};

/** Undefined when the task is not the tenant's. */
export async function readTask(
  database: Database,
  { tenant, taskId }: TaskRef,
): Promise<TaskRow | undefined> {
  const [row] = await database.transaction((tx) => tx.query<TaskRow>(readStatement, [tenant, taskId]), {
    tenant,
  });
  return row;
}

const listStatement = {
  name: 'delegation_list_tasks',
  text: `select ${shown}, null as result from delegation_gateway.tasks
    where tenant = $1 and ($2::timestamptz is null or (submitted_at, task_id) < ($2, $3::uuid))
    order by submitted_at desc, task_id desc limit $4`,
};
const listStatusStatement = {
  name: 'delegation_list_tasks_by_status',
  text: `select ${shown}, null as result from delegation_gateway.tasks
    where tenant = $1 and ($2::timestamptz is null or (submitted_at, task_id) < ($2, $3::uuid)) and status = $5
    order by submitted_at desc, task_id desc limit $4`,
};

/** The place of a task in the list. */
export interface TaskPlace {
  readonly submittedAt: Date;
  readonly taskId: string;
}

/** Newest first. */
export function listTasks(
  database: Database,
  tenant: string,
  page: {
    readonly status: TaskStatus | undefined;
    readonly before: TaskPlace | undefined;
    readonly limit: number;
  },
): Promise<TaskRow[]> {
  const { status, before, limit } = page;
  const values = [tenant, before?.submittedAt ?? null, before?.taskId ?? null, limit];
  return database.transaction(
    (tx) =>
      status === undefined
        ? tx.query<TaskRow>(listStatement, values)
        : tx.query<TaskRow>(listStatusStatement, [...values, status]),
    { tenant },
  );
}

const placeStatement = {
  name: 'delegation_task_place',
  text: `select pruned_epoch, pruned_position from delegation_gateway.tasks where tenant = $1 and task_id = $2`,
};

/** The highest event that is no longer kept, null while all are; undefined when the task is not the tenant's. */
export async function prunedPlace(
  database: Database,
  { tenant, taskId }: TaskRef,
): Promise<StreamPosition | null | undefined> {
  const [row] = await database.transaction(
    (tx) =>
      tx.query<{ pruned_epoch: number | null; pruned_position: string | null }>(placeStatement, [
        tenant,
        taskId,
      ]),
    { tenant },
  );
  if (row === undefined) return undefined;
  const { pruned_epoch: epoch, pruned_position: position } = row;
  return epoch === null || position === null ? null : { epoch, position: BigInt(position) };
}

const openStatement = {
  name: 'delegation_open_tasks',
  text: 'select tenant, open_tasks from delegation_gateway.open_tasks($1, $2)',
};

/** Open tasks of these tenants, counted up to a bound. */
export async function countOpenTasks(
  database: Database,
  tenants: readonly string[],
  bound: number,
): Promise<Map<string, number>> {
  const rows = await database.query<{ tenant: string; open_tasks: number }>(openStatement, [tenants, bound]);
  return new Map(rows.map((row) => [row.tenant, row.open_tasks] as const));
}

const countStatement = {
  name: 'delegation_count_tasks',
  text: 'select status, tasks from delegation_gateway.count_tasks($1)',
};

/** Tasks of all tenants by status: open ones, and those that ended within the last hour; each up to the bound. */
export function countByStatus(
  database: Database,
  bound: number,
): Promise<{ readonly status: TaskStatus; readonly tasks: number }[]> {
  return database.query(countStatement, [bound]);
}

const pruneStatement = {
  name: 'delegation_prune',
  text: 'select delegation_gateway.prune(make_interval(days => $1), $2) as gone',
};

/** Forgets ended tasks and events past their time, of all tenants, at most `limit` of each. Answers how many rows went. */
export async function pruneTasks(database: Queryable, keepDays: number, limit: number): Promise<number> {
  const [row] = await database.query<{ gone: number }>(pruneStatement, [keepDays, limit]);
  return row?.gone ?? 0;
}

const forgetStatement = {
  name: 'delegation_forget_keys',
  text: 'select delegation_gateway.forget_keys(make_interval(hours => $1), $2) as gone',
};

export async function forgetKeys(database: Queryable, keepHours: number, limit: number): Promise<number> {
  const [row] = await database.query<{ gone: number }>(forgetStatement, [keepHours, limit]);
  return row?.gone ?? 0;
}
