import { pause } from '@signalbox/lifecycle/pause';
import type { Outbox } from '@signalbox/messaging/messaging';
import type { Database } from '@signalbox/postgres/database';
import { withoutTrace } from '@signalbox/telemetry/trace';
import { type EndTaskParts, endTask } from './end-task.ts';

const everyMs = 1_000;
const atOnce = 100;

export interface EndExpiredParts extends EndTaskParts {
  readonly database: Database;
  readonly outbox: Outbox;
}

/**
 * Ends tasks past their deadline, and those whose end was asked for and whose holder is gone, wherever they stand. Every replica looks, once a second; two that look at the same
 * moment are parted by the lanes.
 */
export function endExpired(parts: EndExpiredParts, signal: AbortSignal): Promise<void> {
  return withoutTrace(() => loop(parts, signal));
}

async function loop(parts: EndExpiredParts, signal: AbortSignal): Promise<void> {
  let failing = false;
  while (!signal.aborted) {
    await pause(everyMs * (0.8 + Math.random() * 0.4), signal);
    if (signal.aborted) return;
    try {
      await endDue(parts);
      await endLost(parts);
      failing = false;
    } catch (error) {
      if (!failing) parts.log.warning('task.deadlines_not_read', { error });
      failing = true;
    }
  }
}

async function endDue(parts: EndExpiredParts): Promise<void> {
  const { store, database, worker, outbox } = parts;
  const due = await store.due(atOnce);
  if (due.length === 0) return;
  await database.transaction(async (tx) => {
    await worker.queue.lock(
      tx,
      due.map(({ tenant, taskId }) => ({ tenant, key: taskId })),
    );
    const messages = [];
    for (const task of due) messages.push(...(await endTask(parts, tx, task, { why: 'expired' })));
    await outbox.put(tx, messages);
  });
}

/** They are claimed past the slots, as by `endTask`. */
async function endLost({ store, database, worker }: EndExpiredParts): Promise<void> {
  await database.transaction((tx) =>
    worker.claimWithin(tx, async (_slots, terms) => {
      const claims = await store.claimLostToEnd(tx, atOnce, terms);
      return { result: undefined, claims, more: false };
    }),
  );
}
