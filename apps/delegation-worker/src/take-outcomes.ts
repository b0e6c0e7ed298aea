import { headerNames } from '@signalbox/contracts/headers';
import { isId } from '@signalbox/contracts/ids';
import { readValue } from '@signalbox/contracts/validate';
import type { IntakeHandler, IntakeRecord, RecordHead } from '@signalbox/messaging/messaging';
import type { Transaction } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { Worker } from '@signalbox/work/worker';
import { serviceName } from './service-name.ts';
import type { TaskMetrics } from './task-metrics.ts';
import { hasEnded } from './task-state.ts';
import type { TaskStore, WaitOutcome } from './task-store.ts';

export interface TakeOutcomesParts {
  readonly worker: Pick<Worker, 'claimWithin'>;
  readonly store: TaskStore;
  readonly log: Logger;
  readonly metrics: TaskMetrics;
}

/** Results of others' questions are skipped before their values are read (delivery rule 23). */
export const isForUs = (head: RecordHead): boolean => head.headers[headerNames.replyTo] === serviceName;

/** Intake of turn.results: the end of a turn continues the task that it carries out. */
export function takeTurnResults(parts: TakeOutcomesParts): IntakeHandler {
  return async (records, tx) => takeOutcomes(parts, tx, records.flatMap(turnOutcome));
}

/** Intake of delegation.updates: the end of a child continues the task that delegated it. */
export function takeChildUpdates(parts: TakeOutcomesParts): IntakeHandler {
  return async (records, tx) => takeOutcomes(parts, tx, records.flatMap(childOutcome));
}

/**
 * Stores results at the steps that wait for them and lets their tasks go on, in this process while it has slots. Each
 * counts once; one that comes late is kept beside the step and changes nothing.
 */
export async function takeOutcomes(
  { worker, store, log, metrics }: TakeOutcomesParts,
  tx: Transaction,
  outcomes: readonly WaitOutcome[],
): Promise<void> {
  if (outcomes.length === 0) return;
  const verdicts = await worker.claimWithin(tx, async (slots, terms) => {
    const stored = await store.storeOutcomes(tx, outcomes, slots, terms);
    const applied = stored.verdicts.filter(({ verdict }) => verdict === 'applied').length;
    return { result: stored.verdicts, claims: stored.claims, more: stored.claims.length < applied };
  });
  const kinds = new Map(outcomes.map(({ tenant, taskId, kind }) => [`${tenant} ${taskId}`, kind]));
  tx.afterCommit(() => {
    for (const { tenant, taskId, verdict, waitedSeconds } of verdicts) {
      metrics.result(kinds.get(`${tenant} ${taskId}`) ?? 'task', verdict, waitedSeconds);
      if (verdict !== 'applied') log.info('task.result_not_applied', { tenantId: tenant, taskId, verdict });
    }
  });
}

function turnOutcome({ value, tenant, headers }: IntakeRecord): WaitOutcome[] {
  const ended = readValue('turn.results', 'turn.ended', value);
  const taskId = headers[headerNames.correlationId];
  if (ended === undefined || !isId(taskId)) return [];
  return [{ tenant, taskId, kind: 'turn', ref: ended.turn_id, outcome: ended }];
}

function childOutcome({ value, tenant, eventType }: IntakeRecord): WaitOutcome[] {
  if (eventType !== 'task.updated') return [];
  const update = readValue('delegation.updates', 'task.updated', value);
  if (update?.parent_task_id === undefined || !hasEnded(update.status)) return [];
  const { status, result, error } = update;
  return [
    {
      tenant,
      taskId: update.parent_task_id,
      kind: 'task',
      ref: update.task_id,
      outcome: {
        status,
        ...(result === undefined ? {} : { result }),
        ...(error === undefined ? {} : { error }),
      },
    },
  ];
}
