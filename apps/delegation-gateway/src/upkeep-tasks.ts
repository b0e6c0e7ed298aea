import type { UpkeepOutcome, UpkeepTasks } from '@signalbox/messaging/upkeep';
import type { Queryable } from '@signalbox/postgres/database';
import type { DelegationGatewaySettings } from './settings.ts';
import { forgetKeys, pruneTasks } from './task-store.ts';

/**
 * What is past its time in this service's tables, for all tenants, a bounded piece at a call. job-worker asks for each by
 * its name and goes on while there is more; two replicas at it take turns.
 *
 * - `idempotency_keys`: answers older than IDEMPOTENCY_KEEP_HOURS.
 * - `tasks`: tasks that ended more than TASKS_KEEP_DAYS ago, with their events, and events of other tasks as old: resuming
 *   below the newest of those is 410.
 */
export function upkeepTasks(
  settings: Pick<DelegationGatewaySettings, 'idempotencyKeepHours' | 'tasksKeepDays'>,
  database: Queryable,
): UpkeepTasks {
  const piece = async (limit: number, rows: Promise<number>): Promise<UpkeepOutcome> => {
    const done = await rows;
    return { done, more: done >= limit };
  };
  return {
    idempotency_keys: ({ limit }) => piece(limit, forgetKeys(database, settings.idempotencyKeepHours, limit)),
    tasks: ({ limit }) => piece(limit, pruneTasks(database, settings.tasksKeepDays, limit)),
  };
}
