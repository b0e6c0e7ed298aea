import type { OutgoingMessage } from '@signalbox/messaging/messaging';
import type { Transaction } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { Worker } from '@signalbox/work/worker';
import { type EndAsked, endAskedFor } from './run-task.ts';
import { updateMessage, webhooksOf } from './task-messages.ts';
import type { TaskMetrics } from './task-metrics.ts';
import { readPayload, targetName } from './task-payload.ts';
import { updateOf } from './task-state.ts';
import type { TaskStore } from './task-store.ts';

export interface EndTaskParts {
  readonly worker: Pick<Worker, 'cancel' | 'claimWithin' | 'queue'>;
  readonly store: TaskStore;
  /** Webhooks may have been entered. */
  readonly onWebhooks: () => void;
  readonly log: Logger;
  readonly metrics: TaskMetrics;
}

/**
 * Asks for the end of a task, in the caller's transaction. One that never ran has ended with this, and is told of; any
 * other is ended by its holder: right after the commit in this process, within a heartbeat in another. One that nobody holds,
 * because it waits for a result or between two tries, is claimed for it here, past the slots: it must not wait for tasks
 * that run. One that has ended, or is not known, is left alone.
 */
export async function endTask(
  parts: EndTaskParts,
  tx: Transaction,
  { tenant, taskId }: { readonly tenant: string; readonly taskId: string },
  asked: EndAsked,
): Promise<OutgoingMessage[]> {
  const { worker, store, log, metrics, onWebhooks } = parts;
  const [found] = await worker.cancel(tx, { tenant, key: taskId, ids: [taskId], cancel: asked });
  log.debug('task.end_asked', { taskId, why: asked.why, was: found?.was ?? 'nothing' });
  if (found?.was === 'idle') {
    await worker.claimWithin(tx, async (_slots, terms) => {
      const claims = await store.claimToEnd(tx, { tenant, taskId }, terms);
      return { result: undefined, claims, more: claims.length === 0 };
    });
  }
  if (found?.was !== 'waiting') return [];
  const [task] = await store.find(tx, [{ tenant, taskId }]);
  const payload = task && readPayload(task);
  if (task === undefined || payload === undefined) return [];
  const state = endAskedFor(asked);
  const update = updateOf(payload, state, { seq: task.seq + 1, attempt: task.attempt, now: new Date() });
  await store.update(tx, { tenant, taskId }, update, webhooksOf(tenant, payload, update, task.traceparent));
  tx.afterCommit(() => {
    const { kind, name } = targetName(payload.task.target);
    const ms = Date.now() - Date.parse(payload.task.submitted_at);
    metrics.ended(kind, state.status, ms);
    log.info('task.ended', { taskId, target: name, status: state.status, attempt: task.attempt, ms });
    onWebhooks();
  });
  return [{ ...updateMessage(tenant, payload, update), traceparent: task.traceparent }];
}
