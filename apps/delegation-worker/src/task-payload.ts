import type { TaskSubmitted, TaskTarget } from '@signalbox/contracts/delegation-tasks';
import { headerNames } from '@signalbox/contracts/headers';
import { readValue } from '@signalbox/contracts/validate';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import { poisonRecord } from '@signalbox/messaging/poison-record';
import type { WorkItem, WorkRow } from '@signalbox/work/worker';

/** What is stored of a submission: its value, and who is to be told. */
export interface TaskPayload {
  readonly task: TaskSubmitted;
  readonly event_id: string;
  readonly reply_to?: string | undefined;
  readonly request_id?: string | undefined;
}

/** Versions of the payload that this release can run. */
export const payloadFormats = [1] as const;

/** Checked by the runner; here it is also held against its key. */
export function payloadOf(record: IntakeRecord): TaskPayload {
  const task = readValue('delegation.tasks', 'task.submitted', record.value);
  if (task === undefined) throw poisonRecord(record.offset, 'not a task');
  refuseOtherTask(record, task.task_id);
  return {
    task,
    event_id: record.eventId,
    reply_to: record.headers[headerNames.replyTo],
    request_id: record.headers[headerNames.requestId],
  };
}

export function refuseOtherTask({ offset, keyId }: IntakeRecord, named: string): void {
  if (named !== keyId) throw poisonRecord(offset, 'the task in the value is not the task in the key');
}

/** Its id and its lane are the task's: a submission that comes again finds the row, and tasks run beside each other. */
export function workRow(tenant: string, payload: TaskPayload, traceparent: string | undefined): WorkRow {
  return {
    tenant,
    id: payload.task.task_id,
    key: payload.task.task_id,
    format: payloadFormats[0],
    payload,
    ...(traceparent === undefined ? {} : { traceparent }),
  };
}

/** The payload of a claimed row, checked again: another release may have written it. */
export function readPayload({ payload }: Pick<WorkItem, 'payload'>): TaskPayload | undefined {
  if (typeof payload !== 'object' || payload === null) return undefined;
  const fields = new Map<string, unknown>(Object.entries(payload));
  const task = readValue('delegation.tasks', 'task.submitted', fields.get('task'));
  const eventId = fields.get('event_id');
  if (task === undefined || typeof eventId !== 'string') return undefined;
  return {
    task,
    event_id: eventId,
    reply_to: textOf(fields.get('reply_to')),
    request_id: textOf(fields.get('request_id')),
  };
}

/** How logs, spans and metrics name a target; the name of a persona or handler is not bounded, its kind is. */
export function targetName(target: TaskTarget): {
  readonly kind: 'persona' | 'handler';
  readonly name: string;
} {
  return 'persona_id' in target
    ? { kind: 'persona', name: target.persona_id }
    : { kind: 'handler', name: target.handler };
}

/** When the task expires: its own deadline, or so long after it was submitted. */
export function deadlineOf(task: TaskSubmitted, maxMs: number): Date {
  const latest = Date.parse(task.submitted_at) + maxMs;
  return new Date(task.deadline_at === undefined ? latest : Math.min(latest, Date.parse(task.deadline_at)));
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}
