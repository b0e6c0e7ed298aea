import { headerNames } from '@signalbox/contracts/headers';
import { readValue } from '@signalbox/contracts/validate';
import type { IntakeHandler, IntakeRecord, OutgoingMessage } from '@signalbox/messaging/messaging';
import { poisonRecord } from '@signalbox/messaging/poison-record';
import type { Worker, WorkItem, WorkRow } from '@signalbox/work/worker';
import type { OpenedTurn, TurnPayload } from './opened-turn.ts';
import { turnQueued } from './turn-events.ts';
import type { TurnStore } from './turn-store.ts';

export interface TakeMessagesParts {
  readonly store: TurnStore;
  readonly worker: Worker;
  readonly owner: string;
  readonly historyTokens: number;
  /** Keeps the start of a run for the run, which begins right after the commit. */
  keepOpened(item: WorkItem, opened: OpenedTurn): void;
}

/**
 * Intake of conversation.inbound: each message becomes the row of its turn, which is also its inbox. Where the session is
 * free and this process has a slot, the same statement claims the turn and reads what its run starts from.
 *
 * A turn that waits behind others of its session is told to the client (turn.queued), by whoever may write into the
 * session's stream at this moment: the intake holds the lane's lock, so either this process holds the lane, or nobody
 * does. Where another process holds it, the client learns of the turn when it starts.
 */
export function takeMessages(parts: TakeMessagesParts): IntakeHandler {
  const { store, worker, owner, historyTokens } = parts;
  return async (records, tx, context) => {
    const rows = records.map(turnRow);
    const { newIds, claimed } = await worker.claimWithin(tx, async (slots, terms) => {
      const taken = await store.takeMessages(tx, rows, { ...terms, slots, historyTokens });
      for (const claim of taken.claims) parts.keepOpened(claim.item, claim.opened);
      return {
        result: { newIds: new Set(taken.newIds), claimed: new Set(taken.claims.map(({ item }) => item.id)) },
        claims: taken.claims,
        more: taken.claims.length < taken.newIds.length,
      };
    });
    context.duplicates(rows.length - newIds.size);
    const waiting = rows.filter(({ id }) => newIds.has(id) && !claimed.has(id));
    if (waiting.length === 0) return;
    return queued(records, waiting, await store.queuePlaces(tx, owner, waiting));
  };
}

function queued(
  records: readonly IntakeRecord[],
  waiting: readonly WorkRow[],
  places: Awaited<ReturnType<TurnStore['queuePlaces']>>,
): OutgoingMessage[] {
  const bySession = new Map(records.map((record) => [record.key, record]));
  return waiting.flatMap(({ id, key, tenant }) => {
    const place = places.get(id);
    const record = bySession.get(key);
    if (record === undefined || place === undefined || place.ahead === 0 || !place.mayWrite) return [];
    const { sessionId, traceparent, headers } = record;
    const turn = { tenant, sessionId, turnId: id, requestId: headers[headerNames.requestId], traceparent };
    return [turnQueued(turn, place.ahead)];
  });
}

function turnRow(record: IntakeRecord): WorkRow {
  const posted = readValue('conversation.inbound', 'message.posted', record.value);
  if (posted === undefined) throw poisonRecord(record.offset, 'not a posted message');
  if (posted.session_id !== record.sessionId) {
    throw poisonRecord(record.offset, 'the session in the value is not the session in the key');
  }
  const requestId = record.headers[headerNames.requestId];
  const payload: TurnPayload = {
    session_id: posted.session_id,
    turn_id: posted.turn_id,
    event_id: posted.event_id,
    persona_id: posted.persona_id,
    message: posted.message,
    ...(requestId === undefined ? {} : { request_id: requestId }),
  };
  return {
    tenant: record.tenant,
    key: record.key,
    id: posted.turn_id,
    format: 1,
    payload,
    ...(record.traceparent === undefined ? {} : { traceparent: record.traceparent }),
  };
}
