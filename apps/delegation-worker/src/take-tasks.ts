import { readValue } from '@signalbox/contracts/validate';
import type { IntakeHandler, IntakeRecord, OutgoingMessage } from '@signalbox/messaging/messaging';
import { poisonRecord } from '@signalbox/messaging/poison-record';
import type { Transaction } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { Worker } from '@signalbox/work/worker';
import { type EndTaskParts, endTask } from './end-task.ts';
import type { Opened } from './opened-tasks.ts';
import { takeOutcomes } from './take-outcomes.ts';
import { updateMessage } from './task-messages.ts';
import type { TaskMetrics } from './task-metrics.ts';
import { deadlineOf, payloadOf, refuseOtherTask, type TaskPayload, workRow } from './task-payload.ts';
import { updateOf } from './task-state.ts';
import type { NewTask, TaskStore, WaitOutcome } from './task-store.ts';

export interface TakeTasksParts extends EndTaskParts {
  readonly worker: Pick<Worker, 'claimWithin' | 'cancel' | 'queue'>;
  readonly store: TaskStore;
  readonly opened: Opened;
  readonly maxTaskMs: number;
  readonly log: Logger;
  readonly metrics: TaskMetrics;
}

interface Submission {
  readonly record: IntakeRecord;
  readonly payload: TaskPayload;
}

interface EndWanted {
  readonly tenant: string;
  readonly taskId: string;
  readonly reason: string | undefined;
}

/**
 * Intake of delegation.tasks. A submission becomes the row of its task, which is its inbox, and is claimed in the same
 * statement where a slot is free; one that comes again is answered with the task's last update, so that an update that was lost
 * on the way is made good. A cancel or an input has the key of its submission, so it comes behind it.
 */
export function takeTasks(parts: TakeTasksParts): IntakeHandler {
  return async (records, tx, context) => {
    const submissions: Submission[] = [];
    const ends: EndWanted[] = [];
    const inputs: WaitOutcome[] = [];
    for (const record of records) {
      if (record.eventType === 'task.submitted') submissions.push({ record, payload: payloadOf(record) });
      else if (record.eventType === 'task.cancel_requested') ends.push(endOf(record));
      else if (record.eventType === 'task.input_provided') inputs.push(inputOf(record));
    }
    if (ends.length + inputs.length > 0) {
      // All lanes first, in their order: two of these transactions must not wait for each other.
      const lanes = [
        ...submissions.map(({ record, payload }) => ({
          tenant: record.tenant,
          taskId: payload.task.task_id,
        })),
        ...ends,
        ...inputs,
      ];
      await parts.worker.queue.lock(
        tx,
        lanes.map(({ tenant, taskId }) => ({ tenant, key: taskId })),
      );
    }
    const messages = await takeSubmissions(parts, tx, submissions, (count) => context.duplicates(count));
    if (inputs.length > 0) await takeOutcomes(parts, tx, inputs);
    for (const end of ends) {
      messages.push(...(await endTask(parts, tx, end, { why: 'cancelled', reason: end.reason })));
    }
    return messages;
  };
}

async function takeSubmissions(
  parts: TakeTasksParts,
  tx: Transaction,
  submissions: readonly Submission[],
  duplicates: (count: number) => void,
): Promise<OutgoingMessage[]> {
  const { store, worker, opened } = parts;
  if (submissions.length === 0) return [];
  const first = new Map<string, Submission>();
  for (const each of submissions) {
    const name = nameOf(each.record.tenant, each.payload.task.task_id);
    if (!first.has(name)) first.set(name, each);
  }
  const tasks = [...first.values()].map((each) => newTask(each, parts.maxTaskMs));
  const taken = await worker.claimWithin(tx, async (slots, terms) => {
    const { taken, claims } = await store.take(tx, tasks, slots, terms);
    for (const { item } of claims) {
      opened.keep(item, { seq: 1, status: 'running', toldAttempt: 1, steps: [], children: [] });
    }
    return { result: taken, claims, more: claims.length < taken.length };
  });
  const claimedOf = new Map(taken.map(({ tenant, taskId, claimed }) => [nameOf(tenant, taskId), claimed]));
  const messages: OutgoingMessage[] = [];
  for (const { row, update } of tasks) {
    const each = first.get(nameOf(row.tenant, row.id));
    const claimed = claimedOf.get(nameOf(row.tenant, row.id));
    if (each === undefined || claimed === undefined) continue;
    const value = claimed ? { ...update, status: 'running' as const, attempt: 1 } : update;
    messages.push({ ...updateMessage(row.tenant, each.payload, value), traceparent: row.traceparent });
  }
  const repeats = submissions.filter(
    (each) =>
      !claimedOf.has(nameOf(each.record.tenant, each.payload.task.task_id)) ||
      first.get(nameOf(each.record.tenant, each.payload.task.task_id)) !== each,
  );
  duplicates(repeats.length);
  return [...messages, ...(await answersOf(store, tx, repeats))];
}

/** To who asks now, with an event id of its own: its inbox may know the first answer's. */
async function answersOf(
  store: TaskStore,
  tx: Transaction,
  repeats: readonly Submission[],
): Promise<OutgoingMessage[]> {
  if (repeats.length === 0) return [];
  const found = await store.find(
    tx,
    repeats.map(({ record, payload }) => ({ tenant: record.tenant, taskId: payload.task.task_id })),
  );
  const byName = new Map(found.map((task) => [nameOf(task.tenant, task.taskId), task]));
  return repeats.flatMap(({ record, payload }) => {
    const task = byName.get(nameOf(record.tenant, payload.task.task_id));
    if (task === undefined) return [];
    return [{ ...updateMessage(record.tenant, payload, task.lastUpdate), traceparent: record.traceparent }];
  });
}

function newTask({ record, payload }: Submission, maxTaskMs: number): NewTask {
  const { task } = payload;
  return {
    row: workRow(record.tenant, payload, record.traceparent),
    parentTaskId: task.parent_task_id,
    deadline: deadlineOf(task, maxTaskMs),
    priority: task.priority,
    update: updateOf(payload, { status: 'queued' }, { seq: 1, attempt: 0, now: new Date() }),
  };
}

function endOf(record: IntakeRecord): EndWanted {
  const value = readValue('delegation.tasks', 'task.cancel_requested', record.value);
  if (value === undefined) throw poisonRecord(record.offset, 'not a cancel');
  refuseOtherTask(record, value.task_id);
  return { tenant: record.tenant, taskId: value.task_id, reason: value.reason };
}

function inputOf(record: IntakeRecord): WaitOutcome {
  const value = readValue('delegation.tasks', 'task.input_provided', record.value);
  if (value === undefined) throw poisonRecord(record.offset, 'not an input');
  refuseOtherTask(record, value.task_id);
  return {
    tenant: record.tenant,
    taskId: value.task_id,
    kind: 'input',
    inputId: value.input_id,
    outcome: value.input,
  };
}

/** A tenant has no space in its name. */
function nameOf(tenant: string, taskId: string): string {
  return `${tenant} ${taskId}`;
}
