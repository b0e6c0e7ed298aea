import type { IntakeContext, IntakeRecord, OutgoingMessage } from '@signalbox/messaging/messaging';
import type { Transaction } from '@signalbox/postgres/database';
import type { InboundRow, IntakeStore, Taken } from './intake-store.ts';
import type { TakeMessagesParts } from './take-messages.ts';
import { turnEnded } from './turn-ended.ts';
import { turnCancelled, turnOf, turnQueued, turnRejected } from './turn-events.ts';

/**
 * Intake of a batch in which messages refuse to wait (`reject`), end what is before them (`interrupt`), or actions end
 * turns: its records have their effect one after the other, in the order of each session, decided under its lane's lock
 * by one statement (migration 0044, take_in_order). What becomes of a turn that is ended:
 *
 *   it has not run              it has ended with this transaction, which tells turn.cancelled
 *   it runs, in this process    its run is told right after the commit
 *   it runs in another one      its holder is told with its next heartbeat (500 ms)
 *   it is parked, or waits for another try
 *                               it is claimed in this transaction, to be ended right after the commit
 *
 * A turn that was rejected is a finished row: the inbox of its message, which is not asked again.
 */
export async function takeInOrder(
  parts: TakeMessagesParts,
  tx: Transaction,
  records: readonly IntakeRecord[],
  rows: readonly InboundRow[],
  context: IntakeContext,
): Promise<OutgoingMessage[]> {
  const { store, worker, historyTokens } = parts;
  const taken = await worker.claimWithin(tx, async (slots, terms) => {
    const result = await store.takeInOrder(tx, rows, { ...terms, slots, historyTokens });
    const opened = result.flatMap((each) => (each.what === 'claimed' ? [each.turn] : []));
    for (const { item, opened: start } of opened) parts.keepOpened(item, start);
    return {
      result,
      claims: [...opened, ...result.flatMap((each) => (each.what === 'claimed_to_end' ? [each.turn] : []))],
      more: result.some(({ what }) => what === 'taken' || what === 'cancelled' || what === 'flagged'),
      cancelled: result.flatMap((each) => {
        const row = rows[each.place];
        if (each.what !== 'flagged' || row === undefined) return [];
        return [{ tenant: row.tenant, key: row.key, id: each.turnId, cancel: each.cancel }];
      }),
    };
  });
  context.duplicates(taken.filter(({ what }) => what === 'repeated').length);
  tx.afterCommit(() => tell(parts, rows, taken));
  const asked = await askedFor(store, tx, rows, taken);
  return taken.flatMap((each) => {
    const [record, row] = [records[each.place], rows[each.place]];
    return record === undefined || row === undefined ? [] : messagesOf(record, row, each, asked);
  });
}

type AskedTurns = Awaited<ReturnType<IntakeStore['askedTurns']>>;

/** Who is told of the ends of turns that are ended here without having run: what their own messages said. */
async function askedFor(
  store: IntakeStore,
  tx: Transaction,
  rows: readonly InboundRow[],
  taken: readonly Taken[],
): Promise<AskedTurns> {
  const ended = taken.flatMap((each) => {
    const row = rows[each.place];
    return each.what === 'cancelled' && row !== undefined ? [{ tenant: row.tenant, id: each.turnId }] : [];
  });
  return ended.length === 0 ? new Map() : await store.askedTurns(tx, ended);
}

function messagesOf(
  record: IntakeRecord,
  row: InboundRow,
  taken: Taken,
  asked: AskedTurns,
): OutgoingMessage[] {
  switch (taken.what) {
    case 'taken':
      if (taken.ahead === 0 || !('strategy' in row)) return [];
      return [turnQueued(turnOf(record, taken.turnId), taken.ahead, row.strategy)];
    case 'rejected': {
      const turn = turnOf(record, taken.turnId);
      const message = `the session is busy with turn ${taken.busyTurnId}`;
      const ending = { outcome: 'rejected', text: '', error_code: 'SESSION_BUSY', message } as const;
      return [
        turnRejected(turn, taken.busyTurnId),
        ...('payload' in row ? turnEnded(turn, row.payload, ending) : []),
      ];
    }
    case 'cancelled': {
      const { turnId, requestId, traceparent, cancel } = taken;
      const { tenant, sessionId } = record;
      const turn = { tenant, sessionId, turnId, requestId, traceparent };
      const ending = { outcome: 'cancelled', text: '' } as const;
      return [turnCancelled(turn, 1, cancel, ''), ...turnEnded(turn, asked.get(turnId) ?? {}, ending)];
    }
    default:
      return [];
  }
}

/** Counts and logs what this transaction has decided. */
function tell(
  { log, metrics }: TakeMessagesParts,
  rows: readonly InboundRow[],
  taken: readonly Taken[],
): void {
  const hadEffect = new Set<number>();
  for (const each of taken) {
    hadEffect.add(each.place);
    if (each.what === 'rejected') {
      metrics.endedUnrun('rejected');
      log.info('turn.rejected', { turnId: each.turnId, busyTurnId: each.busyTurnId });
    } else if (each.what === 'cancelled') {
      metrics.endedUnrun('cancelled');
      log.info('turn.cancelled', {
        turnId: each.turnId,
        cause: each.cancel.cause,
        by: each.cancel.by,
        length: 0,
      });
    } else if (each.what === 'flagged') {
      log.debug('turn.cancel_requested', {
        turnId: each.turnId,
        cause: each.cancel.cause,
        by: each.cancel.by,
      });
    }
  }
  for (const [place, row] of rows.entries()) {
    if (!('cancels' in row) || hadEffect.has(place)) continue;
    log.debug('turn.cancel_without_effect', { tenantId: row.tenant, turnId: row.turnId, by: row.cancels });
  }
}
