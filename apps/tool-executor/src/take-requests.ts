import type { IntakeHandler } from '@signalbox/messaging/messaging';
import type { Worker } from '@signalbox/work/worker';
import { outcomeMessage } from './answers.ts';
import { readPayload, workRow } from './call-payload.ts';
import type { CallStore } from './call-store.ts';

/**
 * Intake of tool.requests: each call becomes a work row once. A request that comes again (a redelivery, or a later
 * attempt of its turn) is answered from the stored outcome; while its call runs it needs no answer, one will come.
 */
export function takeRequests(worker: Pick<Worker, 'enqueue'>, store: CallStore): IntakeHandler {
  return async (records, tx, context) => {
    const rows = records.map(workRow);
    const fresh = new Set(await worker.enqueue(tx, rows));
    const repeated = rows.filter(({ id }) => !fresh.has(id));
    if (repeated.length === 0) {
      return [];
    }
    context.duplicates(repeated.length);
    const outcomes = await store.outcomes(tx, repeated);
    return repeated.flatMap((row) => {
      const outcome = outcomes.get(`${row.tenant} ${row.id}`);
      const payload = readPayload(row);
      return outcome === undefined || payload === undefined
        ? []
        : [{ ...outcomeMessage(row.tenant, payload, outcome), traceparent: row.traceparent }];
    });
  };
}
