import type { ToolCancelRequested } from '@signalbox/contracts/tool-requests';
import { readValue } from '@signalbox/contracts/validate';
import type { IntakeHandler, IntakeRecord, OutgoingMessage } from '@signalbox/messaging/messaging';
import type { Transaction } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { Worker, WorkRow } from '@signalbox/work/worker';
import { cancelledOutcome, outcomeMessage } from './answers.ts';
import { idOf, readPayload, workRow } from './call-payload.ts';
import type { CallStore } from './call-store.ts';
import type { CountCall } from './count-calls.ts';

export interface TakeRequestsParts {
  readonly worker: Pick<Worker, 'enqueue' | 'cancel' | 'queue'>;
  readonly store: CallStore;
  readonly countCall: CountCall;
  readonly log: Logger;
}

interface CallToCancel {
  readonly tenant: string;
  readonly id: string;
  /** The lane: of a call, the call. */
  readonly key: string;
  readonly value: ToolCancelRequested;
}

/**
 * Intake of tool.requests: each call becomes a work row once, and a cancel ends its call, wherever it stands.
 *
 * A cancel follows its request under the same key, so the call has its row by then. One of a call that has none (its
 * request was put aside) or has ended does nothing, and so does a cancel that comes again.
 */
export function takeRequests(parts: TakeRequestsParts): IntakeHandler {
  const { worker } = parts;
  return async (records, tx, context) => {
    const cancels = records.flatMap(callToCancel);
    const rows = records.filter(({ eventType }) => eventType === 'tool.requested').map(workRow);
    if (cancels.length > 0) {
      await worker.queue.lock(tx, [...rows, ...cancels]);
    }
    const fresh = new Set(rows.length === 0 ? [] : await worker.enqueue(tx, rows));
    const repeated = rows.filter(({ id }) => !fresh.has(id));
    context.duplicates(repeated.length);
    const answers = await answersOf(parts.store, tx, repeated);
    for (const call of cancels) {
      answers.push(...(await cancelCall(parts, tx, call)));
    }
    return answers;
  };
}

/**
 * A request that comes again (a redelivery, or a later attempt of its turn) is answered from the stored outcome; while its
 * call runs it needs no answer, one will come.
 */
async function answersOf(
  store: CallStore,
  tx: Transaction,
  repeated: readonly WorkRow[],
): Promise<OutgoingMessage[]> {
  if (repeated.length === 0) {
    return [];
  }
  const outcomes = await store.outcomes(tx, repeated);
  return repeated.flatMap((row) => {
    const outcome = outcomes.get(`${row.tenant} ${row.id}`);
    const payload = readPayload(row);
    return outcome === undefined || payload === undefined
      ? []
      : [{ ...outcomeMessage(row.tenant, payload, outcome), traceparent: row.traceparent }];
  });
}

function callToCancel({ eventType, value, tenant }: IntakeRecord): CallToCancel[] {
  if (eventType !== 'tool.cancel_requested') {
    return [];
  }
  const call = readValue('tool.requests', 'tool.cancel_requested', value);
  return call === undefined ? [] : [{ tenant, id: idOf(call.call_id), key: call.call_id, value: call }];
}

/** What waits has ended with this, and is answered; what runs is ended and answered by its holder, in any process. */
async function cancelCall(
  { worker, store, countCall, log }: TakeRequestsParts,
  tx: Transaction,
  { tenant, id, key, value }: CallToCancel,
): Promise<OutgoingMessage[]> {
  const cancel = { turn_id: value.turn_id, step: value.step };
  const [found] = await worker.cancel(tx, { tenant, key, ids: [id], cancel });
  log.debug('tool.cancel_taken', { tool: value.tool, callId: value.call_id, was: found?.was ?? 'nothing' });
  if (found?.was !== 'waiting') {
    return [];
  }
  const outcome = cancelledOutcome(value, undefined);
  const ended = await store.endWaiting(tx, { tenant, id }, outcome);
  const payload = ended === undefined ? undefined : readPayload(ended);
  if (ended === undefined || payload === undefined) {
    return [];
  }
  tx.afterCommit(() => countCall(outcome, 0));
  return [{ ...outcomeMessage(tenant, payload, outcome), traceparent: ended.traceparent }];
}
