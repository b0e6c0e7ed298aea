import type { TaskStatus, TaskUpdated } from '@signalbox/contracts/delegation-updates';
import { readValue } from '@signalbox/contracts/validate';
import type { Outbox, OutgoingMessage } from '@signalbox/messaging/messaging';
import { toRecord } from '@signalbox/messaging/outgoing';
import type { Queryable } from '@signalbox/postgres/database';
import { currentTraceparent } from '@signalbox/telemetry/trace';
import {
  type Claim,
  type ClaimTerms,
  type Holder,
  rowsJson,
  type WorkItem,
  type WorkRow,
} from '@signalbox/work/queue';
import { serviceName } from './service-name.ts';

/** A step as it is stored. `ref`: the turn or task that it waits for. */
export interface StoredStep {
  readonly name: string;
  readonly kind: 'run' | 'turn' | 'task' | 'input';
  readonly ref?: string | undefined;
  readonly outcome?: Readonly<Record<string, unknown>> | undefined;
}

/** Where a task stands when its run begins. */
export interface OpenedTask {
  readonly seq: number;
  readonly status: TaskStatus;
  /** The attempt that was told last. */
  readonly toldAttempt: number;
  readonly steps: readonly StoredStep[];
  /** Tasks of this one that have not ended. */
  readonly children: readonly string[];
}

export interface TaskWrite {
  readonly step?: StoredStep | undefined;
  readonly update?: TaskUpdated | undefined;
  readonly end?: 'park' | 'done' | 'failed' | 'cancelled' | undefined;
  readonly error?: string | undefined;
  readonly webhooks?: readonly WorkRow[] | undefined;
  readonly messages: readonly OutgoingMessage[];
}

export interface NewTask {
  readonly row: WorkRow;
  readonly parentTaskId: string | undefined;
  readonly deadline: Date;
  readonly priority: number;
  /** Its first update, as a queued one. */
  readonly update: TaskUpdated;
}

/** A result of what a task waits for. */
export interface WaitOutcome {
  readonly tenant: string;
  readonly taskId: string;
  readonly kind: 'turn' | 'task' | 'input';
  readonly ref?: string | undefined;
  readonly inputId?: string | undefined;
  readonly outcome: Readonly<Record<string, unknown>>;
}

export type Verdict = 'applied' | 'repeat' | 'late' | 'unknown';

export interface StoredOutcome {
  readonly tenant: string;
  readonly taskId: string;
  readonly verdict: Verdict;
  /** Of an applied one: since its task began to wait. */
  readonly waitedSeconds: number | undefined;
}

export interface FoundTask {
  readonly tenant: string;
  readonly taskId: string;
  readonly seq: number;
  readonly status: TaskStatus;
  readonly lastUpdate: TaskUpdated;
  readonly payload: unknown;
  readonly attempt: number;
  readonly traceparent: string | undefined;
}

interface TaskId {
  readonly tenant: string;
  readonly taskId: string;
}

/** The statements of tasks, one round trip each; what they promise stands in migration 0091. Faults: LEASE_LOST where there is a holder. */
export function taskStore(database: Queryable, outbox: Pick<Outbox, 'writer' | 'committed' | 'failed'>) {
  function recordsOf(messages: readonly OutgoingMessage[]) {
    const traceparent = currentTraceparent();
    const records = messages.map((message) => ({
      ...toRecord(message, traceparent, serviceName),
      tenant: message.tenant,
      eventId: message.eventId,
    }));
    const columns = [
      outbox.writer,
      records.map(({ topic }) => topic),
      records.map(({ key }) => key),
      records.map(({ eventId }) => eventId),
      JSON.stringify(records.map(({ headers }) => headers)),
      records.map(({ value }) => value),
    ];
    return { records, columns };
  }

  return {
    /** Claims of what is new and free ride along. Of each new task: whether it was claimed. */
    async take(
      tx: Queryable,
      tasks: readonly NewTask[],
      slots: number,
      terms: ClaimTerms,
    ): Promise<{ taken: { tenant: string; taskId: string; claimed: boolean }[]; claims: Claim[] }> {
      const json = tasks.map((task) => ({
        tenant: task.row.tenant,
        task_id: task.row.id,
        parent_task_id: task.parentTaskId,
        deadline_at: task.deadline.toISOString(),
        priority: task.priority,
        update: task.update,
        row: JSON.parse(rowsJson([task.row]))[0],
      }));
      const rows = await tx.query<ClaimColumns>(statements.take, [
        JSON.stringify(json),
        terms.owner,
        slots,
        terms.leaseMs,
        terms.formats,
      ]);
      return {
        taken: rows.map(({ tenant, id, claimed = false }) => ({ tenant, taskId: id, claimed })),
        claims: rows.filter(({ claimed }) => claimed).map(toClaim),
      };
    },

    /** `running`: the update and message to tell when the task was queued and never ran. */
    async begin(
      item: WorkItem,
      holder: Holder,
      running?: { readonly update: TaskUpdated; readonly message: OutgoingMessage },
    ): Promise<OpenedTask> {
      const { records, columns } = recordsOf(running === undefined ? [] : [running.message]);
      const [row] = await database
        .query<BeginColumns>(statements.begin, [
          ...place(item, holder),
          running === undefined ? null : JSON.stringify(running.update),
          ...columns,
        ])
        .catch((error: unknown) => {
          outbox.failed(records, error);
          throw error;
        });
      if (row === undefined) throw new Error('begin_task answered nothing');
      const { put_id: id, fast, prev_id: prevId } = row;
      if (id !== null && fast !== null) {
        outbox.committed(records.map((record) => ({ ...record, id, fast, prevId })));
      }
      return {
        seq: row.seq,
        status: row.status,
        toldAttempt: row.told_attempt,
        steps: row.steps.map(({ name, kind, ref, outcome }) => ({
          name,
          kind,
          ref: ref ?? undefined,
          outcome: outcome ?? undefined,
        })),
        children: row.children,
      };
    },

    /** May be repeated when its outcome is not known: then LEASE_LOST says that it was committed and ended the run. */
    async write(item: WorkItem, holder: Holder, write: TaskWrite): Promise<void> {
      const { records, columns } = recordsOf(write.messages);
      const { step, update, webhooks = [] } = write;
      const rows = await database
        .query<PutColumns>(statements.write, [
          ...place(item, holder),
          step === undefined ? null : JSON.stringify(step),
          update === undefined ? null : JSON.stringify(update),
          write.end ?? null,
          write.error ?? null,
          webhooks.length === 0 ? null : rowsJson(webhooks),
          ...columns,
        ])
        .catch((error: unknown) => {
          outbox.failed(records, error);
          throw error;
        });
      outbox.committed(
        records.map((record, at) => {
          const row = rows[at];
          if (row === undefined) throw new Error('write_task answered fewer rows than it got');
          return { ...record, id: row.id, fast: row.fast, prevId: row.prev_id };
        }),
      );
    },

    /** Of a task that ended in this transaction without a holder. */
    async update(
      tx: Queryable,
      { tenant, taskId }: TaskId,
      update: TaskUpdated,
      webhooks: readonly WorkRow[],
    ): Promise<void> {
      const values = [
        tenant,
        taskId,
        JSON.stringify(update),
        webhooks.length === 0 ? null : rowsJson(webhooks),
      ];
      await tx.query(statements.update, values);
    },

    async find(tx: Queryable, tasks: readonly TaskId[]): Promise<FoundTask[]> {
      const rows = await tx.query<FoundColumns>(statements.find, [
        tasks.map(({ tenant }) => tenant),
        tasks.map(({ taskId }) => taskId),
      ]);
      return rows.flatMap((row) => {
        const lastUpdate = readValue('delegation.updates', 'task.updated', row.last_update);
        if (lastUpdate === undefined) return [];
        const { tenant, task_id: taskId, seq, status, payload, attempt } = row;
        return [
          {
            tenant,
            taskId,
            seq,
            status,
            lastUpdate,
            payload,
            attempt,
            traceparent: row.traceparent ?? undefined,
          },
        ];
      });
    },

    /** Of a task whose end was asked for in this transaction: none where somebody holds it. */
    async claimToEnd(tx: Queryable, { tenant, taskId }: TaskId, terms: ClaimTerms): Promise<Claim[]> {
      const values = [tenant, taskId, terms.owner, terms.leaseMs, terms.formats];
      return (await tx.query<ClaimColumns>(statements.claimToEnd, values)).map(toClaim);
    },

    /** Of processes that are gone. */
    async claimLostToEnd(tx: Queryable, limit: number, terms: ClaimTerms): Promise<Claim[]> {
      const values = [terms.owner, limit, terms.leaseMs, terms.formats];
      return (await tx.query<ClaimColumns>(statements.claimLostToEnd, values)).map(toClaim);
    },

    async storeOutcomes(
      tx: Queryable,
      outcomes: readonly WaitOutcome[],
      slots: number,
      terms: ClaimTerms,
    ): Promise<{ verdicts: StoredOutcome[]; claims: Claim[] }> {
      const json = outcomes.map(({ tenant, taskId, kind, ref, inputId, outcome }) => ({
        tenant,
        task_id: taskId,
        kind,
        ref,
        input_id: inputId,
        outcome,
      }));
      const rows = await tx.query<ClaimColumns & { verdict: Verdict | null; waited_seconds: number | null }>(
        statements.storeOutcomes,
        [JSON.stringify(json), terms.owner, slots, terms.leaseMs, terms.formats],
      );
      return {
        verdicts: rows.flatMap(({ tenant, id, verdict, waited_seconds: waited }) =>
          verdict === null ? [] : [{ tenant, taskId: id, verdict, waitedSeconds: waited ?? undefined }],
        ),
        claims: rows.filter(({ verdict, claimed }) => verdict === null && claimed).map(toClaim),
      };
    },

    /** Tasks of the tenant that others have delegated and that have not ended, counted up to the limit. */
    async openChildren(tenant: string, limit: number): Promise<number> {
      const [row] = await database.query<{ open: number }>(statements.openChildren, [tenant, limit]);
      return row?.open ?? 0;
    },

    async due(limit: number): Promise<TaskId[]> {
      const rows = await database.query<{ tenant: string; task_id: string }>(statements.due, [limit]);
      return rows.map(({ tenant, task_id: taskId }) => ({ tenant, taskId }));
    },

    async prune(olderThanMs: number, limit: number): Promise<number> {
      const [row] = await database.query<{ gone: number }>(statements.prune, [olderThanMs, limit]);
      return row?.gone ?? 0;
    },
  };
}

export type TaskStore = ReturnType<typeof taskStore>;

const place = (item: WorkItem, holder: Holder) => [
  item.tenant,
  item.key,
  holder.owner,
  holder.fence,
  item.id,
];

function toClaim(row: ClaimColumns): Claim {
  return {
    fence: Number(row.fence),
    item: {
      tenant: row.tenant,
      key: row.key,
      id: row.id,
      format: row.format,
      payload: row.payload,
      attempt: row.attempt,
      retries: row.retries,
      enqueuedAt: row.enqueued_at,
      traceparent: row.traceparent ?? undefined,
      ...(row.lost === undefined ? {} : { lost: row.lost }),
      ...(row.cancel === undefined ? {} : { cancel: row.cancel }),
    },
  };
}

interface PutColumns {
  readonly id: string;
  readonly fast: boolean;
  readonly prev_id: string | null;
}

interface BeginColumns {
  readonly seq: number;
  readonly status: TaskStatus;
  readonly told_attempt: number;
  readonly steps: readonly {
    readonly name: string;
    readonly kind: StoredStep['kind'];
    readonly ref: string | null;
    readonly outcome: Readonly<Record<string, unknown>> | null;
  }[];
  readonly children: readonly string[];
  readonly put_id: string | null;
  readonly fast: boolean | null;
  readonly prev_id: string | null;
}

interface ClaimColumns {
  readonly claimed?: boolean;
  readonly tenant: string;
  readonly key: string;
  readonly fence: string;
  readonly id: string;
  readonly format: number;
  readonly payload: unknown;
  readonly attempt: number;
  readonly retries: number;
  readonly enqueued_at: Date;
  readonly traceparent: string | null;
  /** These two of a claim to end it. */
  readonly lost?: number;
  readonly cancel?: unknown;
}

interface FoundColumns {
  readonly tenant: string;
  readonly task_id: string;
  readonly seq: number;
  readonly status: TaskStatus;
  readonly last_update: unknown;
  readonly payload: unknown;
  readonly attempt: number;
  readonly traceparent: string | null;
}

const call = (name: string, parameters: string, columns = '*') => ({
  name: `delegation_worker_${name}`,
  text: `select ${columns} from delegation_worker.${name}(${parameters})`,
});

const put = (from: number) =>
  `$${from}, $${from + 1}::text[], $${from + 2}::text[], $${from + 3}::uuid[], $${from + 4}::jsonb, $${from + 5}::bytea[]`;

const statements = {
  take: call('take_tasks', '$1::jsonb, $2, $3, $4, $5'),
  begin: call('begin_task', `$1, $2, $3, $4, $5, $6::jsonb, ${put(7)}`),
  write: call('write_task', `$1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8, $9, $10::jsonb, ${put(11)}`),
  update: call('update_task', '$1, $2, $3::jsonb, $4::jsonb'),
  find: call('find_tasks', '$1::text[], $2::uuid[]'),
  claimToEnd: call('claim_to_end', '$1, $2, $3, $4, $5'),
  claimLostToEnd: call('claim_lost_to_end', '$1, $2, $3, $4'),
  storeOutcomes: call('store_outcomes', '$1::jsonb, $2, $3, $4, $5'),
  openChildren: call('open_children', '$1, $2', 'open_children as open'),
  due: call('due_tasks', '$1'),
  prune: call('prune_tasks', '$1, $2', 'prune_tasks as gone'),
};
