import { cancelDownSql, cancelSql } from './sql/cancel.ts';
import { claimSql } from './sql/claim.ts';
import { enqueueSql } from './sql/enqueue.ts';
import { leaseSql } from './sql/lease.ts';
import { outcomeSql } from './sql/outcome.ts';
import { priorityDownSql, prioritySql } from './sql/priority.ts';
import { replacedSql } from './sql/replaced.ts';
import { tablesSql } from './sql/tables.ts';
import { upkeepSql } from './sql/upkeep.ts';

export interface QueueNames {
  /** The service's schema; the queue's functions and the `lanes` table are made in it. One queue a schema. */
  readonly schema: string;
  /** The table of work rows: `turns`, `calls`. */
  readonly items: string;
  /** Roles that may call the functions; the schema's own group role by default. */
  readonly roles?: readonly string[];
}

const nameForm = /^[a-z][a-z_]{0,40}$/;

/**
 * The SQL of one work queue for an app's migration: tables, SECURITY DEFINER functions of signalbox_queue, grants.
 * The functions' promises stand above each in `sql/`; the lock order that keeps them free of deadlocks is
 * lane (in tenant, key order) → item → `messaging.outbox_put`. Who calls the latter first must hold the lane already.
 */
export function queueSql(names: QueueNames): string {
  return [
    tablesSql(names),
    claimSql(names),
    enqueueSql(names),
    leaseSql(names),
    outcomeSql(names),
    upkeepSql(names),
    protectSql(names),
  ].join('\n');
}

/**
 * What a queue made by `queueSql` gained since, for a migration behind its first: items can be cancelled, and tries that
 * ended without an outcome are counted. A process of the release before goes on beside it.
 */
export function queueCancelSql(names: QueueNames): string {
  return [cancelSql(names), replacedSql(names), protectSql(names)].join('\n');
}

export function queueCancelDownSql(names: QueueNames): string {
  const before = [claimSql(names), outcomeSql(names), upkeepSql(names)].join('\n');
  return [
    before.replaceAll('CREATE FUNCTION', 'CREATE OR REPLACE FUNCTION'),
    cancelDownSql(names),
    protectSql(names),
  ].join('\n');
}

/** Gives the queue's lanes a priority, for a migration behind `queueSql`: `work_prioritize` sets it. */
export function queuePrioritySql(names: QueueNames): string {
  return [prioritySql(names), protectSql(names)].join('\n');
}

export function queuePriorityDownSql(names: QueueNames): string {
  return [priorityDownSql(names), protectSql(names)].join('\n');
}

function protectSql({ schema, items, roles = [`signalbox_${schema}`] }: QueueNames): string {
  for (const name of [schema, items, ...roles]) {
    if (!nameForm.test(name)) throw new Error(`${name}: not a plain SQL name`);
  }
  return `SELECT app.protect_queue_functions('${schema}', ${roles.map((role) => `'${role}'`).join(', ')});`;
}
