import { comparePositions, type StreamPosition, streamStart } from '@signalbox/api/stream-id';
import { groupByTenant } from '@signalbox/api/tenant-rows';
import type { TaskUpdated, WebhookUpdated } from '@signalbox/contracts/delegation-updates';
import { readValue } from '@signalbox/contracts/validate';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import { poisonRecord } from '@signalbox/messaging/poison-record';
import type { Database, Transaction } from '@signalbox/postgres/database';
import { parseTraceparent } from '@signalbox/telemetry/trace';
import type { TaskRef } from './task-event.ts';
import { advance, isEnded, type TaskState } from './task-state.ts';
import {
  adoptTasks,
  insertEvents,
  lockTasks,
  type MovedTask,
  moveTasks,
  type NewEvent,
  storedEvents,
} from './update-store.ts';

/**
 * What became of a record: `applied`; `known`, the same record came again; `repeat`, its event came in another record;
 * `late`, `backwards` (task-state.ts); `orphan`, of a webhook whose task is not known here any more.
 */
export type UpdateOutcome = 'applied' | 'known' | 'repeat' | 'late' | 'backwards' | 'orphan';

export interface TakeUpdatesOptions {
  readonly database: Database;
  readonly epoch: number;
  /** Called after the commit for each task that has a new event. */
  wake(task: TaskRef, last: StreamPosition): void;
  count(outcome: UpdateOutcome): void;
}

interface Standing extends Pick<TaskState, 'status' | 'seq'> {
  /** The place of its last event. */
  readonly last: StreamPosition;
}

type Moving = { -readonly [K in keyof MovedTask]: MovedTask[K] };

/**
 * Takes records of one partition, in offset order: the task's row moves forward, its event is stored under its stream id.
 * One transaction a tenant; records that come again change nothing. Throws DATABASE_UNAVAILABLE, then the whole call comes
 * again; POISON_RECORD for one whose stream place its task has passed.
 */
export function createTakeUpdates({ database, epoch, wake, count }: TakeUpdatesOptions) {
  async function takeOfTenant(
    tx: Transaction,
    tenant: string,
    records: readonly IntakeRecord[],
  ): Promise<{ outcomes: UpdateOutcome[]; moved: Moving[] }> {
    const ids = [...new Set(records.map(({ keyId }) => keyId))];
    const standing = await lockAll(tx, tenant, ids, records);
    const stored = await storedEvents(
      tx,
      tenant,
      records.map(({ eventId }) => eventId),
    );
    const moved = new Map<string, Moving>();
    const events: NewEvent[] = [];

    function move(record: IntakeRecord): Moving {
      const { keyId: taskId, offset: position } = record;
      let moving = moved.get(taskId);
      if (moving === undefined) {
        moving = {
          taskId,
          update: undefined,
          state: undefined,
          endedAt: undefined,
          webhook: undefined,
          last: { epoch, position },
        };
        moved.set(taskId, moving);
      }
      moving.last = { epoch, position };
      stored.set(record.eventId, moving.last);
      events.push({
        taskId,
        position,
        eventId: record.eventId,
        type: record.eventType,
        data: dataOf(record),
      });
      return moving;
    }

    function take(record: IntakeRecord): UpdateOutcome {
      const { eventId, offset, keyId: taskId } = record;
      const before = stored.get(eventId);
      if (before !== undefined)
        return comparePositions(before, { epoch, position: offset }) === 0 ? 'known' : 'repeat';
      const state = standing.get(taskId);
      const update = updateIn(record);
      if (update === undefined) {
        if (state === undefined) return 'orphan';
        if (comparePositions({ epoch, position: offset }, state.last) <= 0) return 'late';
        standing.set(taskId, { ...state, last: { epoch, position: offset } });
        move(record).webhook = webhookIn(record);
        return 'applied';
      }
      const next = advance(state ?? { status: 'queued', seq: 0 }, update);
      if (next.outcome !== 'applied') return next.outcome;
      // Its task has gone on at a higher place: no stream that has seen that would ever show it.
      if (state !== undefined && comparePositions({ epoch, position: offset }, state.last) <= 0)
        throw poisonRecord(offset, 'the place was passed before: DELEGATION_STREAM_EPOCH was not raised');
      standing.set(taskId, { ...next.state, last: { epoch, position: offset } });
      const moving = move(record);
      moving.update = update;
      moving.state = next.state;
      if (isEnded(next.state.status)) moving.endedAt = update.updated_at;
      return 'applied';
    }

    const outcomes = records.map(take);
    if (events.length > 0) {
      await insertEvents(tx, tenant, epoch, events);
      await moveTasks(tx, tenant, epoch, [...moved.values()]);
    }
    return { outcomes, moved: [...moved.values()] };
  }

  /** The tasks of the records, locked. One that was not submitted here gets its row by its first update. */
  async function lockAll(
    tx: Transaction,
    tenant: string,
    ids: readonly string[],
    records: readonly IntakeRecord[],
  ): Promise<Map<string, Standing>> {
    let rows = await lockTasks(tx, tenant, ids);
    if (rows.length < ids.length) {
      const there = new Set(rows.map((row) => row.task_id));
      const first = new Map<string, TaskUpdated>();
      for (const record of records) {
        const update = there.has(record.keyId) || first.has(record.keyId) ? undefined : updateIn(record);
        if (update !== undefined) first.set(record.keyId, update);
      }
      if (first.size > 0) {
        await adoptTasks(tx, tenant, [...first.values()]);
        rows = await lockTasks(tx, tenant, ids);
      }
    }
    return new Map(
      rows.map(({ task_id: id, status, seq, last_epoch: lastEpoch, last_position: position }) => {
        const last =
          lastEpoch === null || position === null
            ? streamStart
            : { epoch: lastEpoch, position: BigInt(position) };
        return [id, { status, seq, last }] as const;
      }),
    );
  }

  return async function takeUpdates(records: readonly IntakeRecord[]): Promise<void> {
    for (const record of records) {
      if (taskIdIn(record.value) !== record.keyId)
        throw poisonRecord(record.offset, 'the key names another task than the value');
    }
    const { tenants, upto, rows } = groupByTenant(records);
    for (const [index, tenant] of tenants.entries()) {
      const part = rows.slice(index === 0 ? 0 : upto[index - 1], upto[index]);
      const { outcomes, moved } = await database.transaction((tx) => takeOfTenant(tx, tenant, part), {
        tenant,
      });
      for (const { taskId, last } of moved) wake({ tenant, taskId }, last);
      for (const outcome of outcomes) count(outcome);
    }
    failPoint('intake.committed');
  };
}

function updateIn({ eventType, value }: IntakeRecord): TaskUpdated | undefined {
  return eventType === 'task.updated' ? readValue('delegation.updates', 'task.updated', value) : undefined;
}

function webhookIn({ value }: IntakeRecord): WebhookUpdated | undefined {
  return readValue('delegation.updates', 'webhook.updated', value);
}

function taskIdIn(value: unknown): unknown {
  return typeof value === 'object' && value !== null && 'task_id' in value ? value.task_id : undefined;
}

/** The event as streams show it: the record's value with the trace it belongs to. */
function dataOf({ value, traceparent }: IntakeRecord): string {
  const traceId = parseTraceparent(traceparent)?.traceId;
  return JSON.stringify(traceId === undefined ? value : { ...Object(value), trace_id: traceId });
}
