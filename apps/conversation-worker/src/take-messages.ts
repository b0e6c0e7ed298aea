import { headerNames } from '@signalbox/contracts/headers';
import { readValue } from '@signalbox/contracts/validate';
import type { IntakeHandler, IntakeRecord, OutgoingMessage } from '@signalbox/messaging/messaging';
import { poisonRecord } from '@signalbox/messaging/poison-record';
import type { Transaction } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { Worker, WorkItem } from '@signalbox/work/worker';
import type { InboundRow, IntakeStore, MessageRow } from './intake-store.ts';
import type { OpenedTurn, TurnPayload } from './opened-turn.ts';
import { takeInOrder } from './take-in-order.ts';
import { turnOf, turnQueued } from './turn-events.ts';
import type { TurnMetrics } from './turn-metrics.ts';

export interface TakeMessagesParts {
  readonly store: IntakeStore;
  readonly worker: Pick<Worker, 'claimWithin'>;
  readonly historyTokens: number;
  readonly log: Logger;
  readonly metrics: TurnMetrics;
  /** Keeps the start of a run for the run, which begins right after the commit. */
  keepOpened(item: WorkItem, opened: OpenedTurn): void;
}

/**
 * Intake of conversation.inbound: each message becomes the row of its turn, which is also its inbox. Where the session is
 * free and this process has a slot, the same statement claims the turn and reads what its run starts from. What a message
 * does to a busy session, and actions, are taken by `takeInOrder`; batches without either do not pay for it.
 *
 * A turn that does not run now is told of here, through the outbox and in the intake's transaction: queued, rejected, or
 * cancelled before it ran. Another process may hold the lane and stream a turn before it at this moment. That is no
 * second writer in the sense of delivery rule 18: these events are of a turn that nobody has begun, they say nothing of
 * the one that runs, and a reader keeps them apart by their turn. Where between its deltas they stand is left open. Of
 * one turn they are in order: its own first record comes from a claim after this commit, and its holder sends the rows
 * of others first (delivery rule 19).
 */
export function takeMessages(parts: TakeMessagesParts): IntakeHandler {
  return async (records, tx, context) => {
    const rows = records.map(inboundRow);
    const plain = rows.filter(waitsInLine);
    if (plain.length < rows.length) return await takeInOrder(parts, tx, records, rows, context);
    const { newIds, messages } = await takePlain(parts, tx, records, plain);
    context.duplicates(rows.length - newIds);
    return messages;
  };
}

async function takePlain(
  parts: TakeMessagesParts,
  tx: Transaction,
  records: readonly IntakeRecord[],
  rows: readonly MessageRow[],
): Promise<{ newIds: number; messages: OutgoingMessage[] }> {
  const { store, worker, historyTokens } = parts;
  const { newIds, claimed } = await worker.claimWithin(tx, async (slots, terms) => {
    const taken = await store.takeMessages(tx, rows, { ...terms, slots, historyTokens });
    for (const claim of taken.claims) parts.keepOpened(claim.item, claim.opened);
    return {
      result: { newIds: new Set(taken.newIds), claimed: new Set(taken.claims.map(({ item }) => item.id)) },
      claims: taken.claims,
      more: taken.claims.length < taken.newIds.length,
    };
  });
  const waiting = rows.filter(({ id }) => newIds.has(id) && !claimed.has(id));
  if (waiting.length === 0) return { newIds: newIds.size, messages: [] };
  const ahead = await store.turnsAhead(tx, waiting);
  const messages = rows.flatMap(({ id }, at) => {
    const [record, position = 0] = [records[at], ahead.get(id)];
    ahead.delete(id); // once, should the batch hold the message twice
    return record === undefined || position === 0
      ? []
      : [turnQueued(turnOf(record, id), position, 'enqueue')];
  });
  return { newIds: newIds.size, messages };
}

function waitsInLine(row: InboundRow): row is MessageRow {
  return 'strategy' in row && row.strategy === 'enqueue';
}

function inboundRow(record: IntakeRecord): InboundRow {
  const { tenant, key } = record;
  if (record.eventType === 'session.action') {
    const action = readValue('conversation.inbound', 'session.action', record.value);
    if (action === undefined) throw poisonRecord(record.offset, 'not an action');
    refuseOtherSession(record, action.session_id);
    return { tenant, key, cancels: action.event_id, turnId: action.turn_id, reason: action.reason };
  }
  const posted = readValue('conversation.inbound', 'message.posted', record.value);
  if (posted === undefined) throw poisonRecord(record.offset, 'not a posted message');
  refuseOtherSession(record, posted.session_id);
  const {
    [headerNames.requestId]: requestId,
    [headerNames.replyTo]: replyTo,
    [headerNames.correlationId]: correlationId,
  } = record.headers;
  const payload: TurnPayload = {
    session_id: posted.session_id,
    turn_id: posted.turn_id,
    event_id: posted.event_id,
    persona_id: posted.persona_id,
    message: posted.message,
    ...(requestId === undefined ? {} : { request_id: requestId }),
    ...(replyTo === undefined
      ? {}
      : {
          asked_by: {
            reply_to: replyTo,
            ...(correlationId === undefined ? {} : { correlation_id: correlationId }),
          },
        }),
    ...(posted.delegation === undefined ? {} : { delegation: posted.delegation }),
  };
  return {
    ...{ tenant, key, id: posted.turn_id, format: 1, payload },
    ...(record.traceparent === undefined ? {} : { traceparent: record.traceparent }),
    strategy: posted.multitask_strategy ?? 'enqueue',
  };
}

function refuseOtherSession({ offset, sessionId }: IntakeRecord, named: string): void {
  if (named !== sessionId) {
    throw poisonRecord(offset, 'the session in the value is not the session in the key');
  }
}
