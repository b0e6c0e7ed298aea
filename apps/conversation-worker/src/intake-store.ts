import type { MultitaskStrategy } from '@signalbox/contracts/conversation-inbound';
import type { Queryable } from '@signalbox/postgres/database';
import { type Claim, rowsJson, type WorkRow } from '@signalbox/work/queue';
import {
  type ClaimedColumns,
  type ClaimedTurn,
  claimedTurn,
  claimOf,
  type OpenedColumns,
  openedTurn,
  type TurnPayload,
} from './opened-turn.ts';
import type { ToolInput, ToolOutcomeStored } from './turn-journal.ts';

export interface ClaimTerms {
  readonly owner: string;
  readonly slots: number;
  readonly leaseMs: number;
  readonly historyTokens: number;
}

/** A message: the row of its turn, and what it does to a busy session. */
export interface MessageRow extends WorkRow {
  readonly payload: TurnPayload;
  readonly strategy: MultitaskStrategy;
}

/** An action that ends turns. */
export interface CancelRow {
  readonly tenant: string;
  readonly key: string;
  /** The action's event id. */
  readonly cancels: string;
  /** Every unfinished turn of the session if left out. */
  readonly turnId: string | undefined;
  readonly reason: string | undefined;
}

export type InboundRow = MessageRow | CancelRow;

/** Who asked for the end of a turn and why: on its row for its holder, and in `turn.cancelled`. */
export interface TurnCancel {
  readonly cause: 'requested' | 'interrupted';
  /** Event id of the action, or of the message that interrupts. */
  readonly by: string;
  readonly reason?: string;
}

/** What became of an inbound row, or of a turn because of it; `place`: of the row in the call, from 0. Migration 0044. */
export type Taken = { readonly place: number } & (
  | { readonly what: 'repeated' }
  | { readonly what: 'taken'; readonly turnId: string; readonly ahead: number }
  | { readonly what: 'rejected'; readonly turnId: string; readonly busyTurnId: string }
  | {
      readonly what: 'cancelled';
      readonly turnId: string;
      readonly cancel: TurnCancel;
      readonly requestId: string | undefined;
      readonly traceparent: string | undefined;
    }
  | { readonly what: 'flagged'; readonly turnId: string; readonly cancel: TurnCancel }
  | { readonly what: 'claimed'; readonly turnId: string; readonly turn: ClaimedTurn }
  | { readonly what: 'claimed_to_end'; readonly turnId: string; readonly turn: Claim }
);

/** An outcome of a tool call as a result record, or the end of the wait, brings it. */
export interface ArrivedOutcome {
  readonly tenant: string;
  readonly key: string;
  readonly turnId: string;
  readonly step: number;
  readonly callId: string;
  readonly eventId: string;
  readonly outcome: ToolOutcomeStored;
}

/** An update of a delegated task, for the step that waits for it; `outcome` where the task has ended. */
export interface ArrivedUpdate extends Omit<ArrivedOutcome, 'outcome'> {
  readonly seq: number;
  readonly outcome: ToolOutcomeStored | undefined;
}

/** `attempt` is the step's: that of the turn when it asked for the call. `shown`: of a task that goes on. */
export interface OutcomeFate {
  readonly fate: 'applied' | 'shown' | 'late' | 'repeated' | 'unknown';
  readonly attempt: number;
}

export interface ExpiredWait {
  readonly tenant: string;
  readonly key: string;
  readonly turnId: string;
  readonly sessionId: string;
  readonly requestId: string | undefined;
  readonly traceparent: string | undefined;
  readonly step: number;
  readonly callId: string;
  readonly input: ToolInput;
  readonly waitedMs: number;
}

/** Versions of a turn's row and steps that this release can continue. */
export const turnFormats: readonly number[] = [1];

/** The statements of the intakes, one round trip each; what they promise stands in migrations 0042, 0044 and 0047. */
export function intakeStore(database: Queryable) {
  return {
    /** Enters turns and claims those whose session is free. In the intake's transaction. */
    async takeMessages(tx: Queryable, rows: readonly WorkRow[], terms: ClaimTerms) {
      const found = await tx.query<ClaimedColumns>(statements.takeMessages, [
        rowsJson(rows),
        terms.owner,
        terms.slots,
        terms.leaseMs,
        turnFormats,
        terms.historyTokens,
      ]);
      return {
        newIds: found.map((row) => row.id),
        claims: found.filter((row) => row.claimed).map(claimedTurn),
      };
    },

    /** The same one by one in the order of each session, where rows of the batch end or refuse turns. */
    async takeInOrder(tx: Queryable, rows: readonly InboundRow[], terms: ClaimTerms): Promise<Taken[]> {
      const found = await tx.query<TakenColumns>(statements.takeInbound, [
        JSON.stringify(rows.map(inboundJson)),
        terms.owner,
        terms.slots,
        terms.leaseMs,
        turnFormats,
        terms.historyTokens,
      ]);
      return found.map(takenOf);
    },

    /** Of turns that wait: how many unfinished ones of their session come before each. */
    async turnsAhead(
      tx: Queryable,
      turns: readonly { tenant: string; id: string }[],
    ): Promise<Map<string, number>> {
      const values = [turns.map(({ tenant }) => tenant), turns.map(({ id }) => id)];
      const found = await tx.query<{ id: string; ahead: number }>(statements.turnsAhead, values);
      return new Map(found.map(({ id, ahead }) => [id, ahead]));
    },

    /** Of turns that were ended here: the messages of those whose end somebody is told of. */
    async askedTurns(
      tx: Queryable,
      turns: readonly { tenant: string; id: string }[],
    ): Promise<Map<string, TurnPayload>> {
      const values = [turns.map(({ tenant }) => tenant), turns.map(({ id }) => id)];
      const found = await tx.query<{ id: string; payload: TurnPayload }>(statements.askedTurns, values);
      return new Map(found.map(({ id, payload }) => [id, payload]));
    },

    storeToolOutcomes: (tx: Queryable, arrived: readonly ArrivedOutcome[]): Promise<OutcomeFate[]> =>
      storeArrived(tx, statements.storeToolOutcomes, arrived),

    storeTaskUpdates: (tx: Queryable, arrived: readonly ArrivedUpdate[]): Promise<OutcomeFate[]> =>
      storeArrived(tx, statements.storeTaskUpdates, arrived),

    /** Counts outcomes down and claims the turns that can go on. In the transaction that stored the outcomes. */
    async resumeTurns(
      tx: Queryable,
      turns: readonly { tenant: string; key: string; turnId: string }[],
      terms: ClaimTerms,
    ): Promise<ClaimedTurn[]> {
      const found = await tx.query<ClaimedColumns>(statements.resumeTurns, [
        turns.map(({ tenant }) => tenant),
        turns.map(({ key }) => key),
        turns.map(({ turnId }) => turnId),
        terms.owner,
        terms.slots,
        terms.leaseMs,
        turnFormats,
        terms.historyTokens,
      ]);
      return found.filter((row) => row.claimed).map(claimedTurn);
    },

    async waitsOver(limit: number): Promise<ExpiredWait[]> {
      const found = await database.query<ExpiredColumns>(statements.waitsOver, [limit]);
      return found.map((row) => ({
        ...{ tenant: row.tenant, key: row.key, turnId: row.turn_id, sessionId: row.session_id },
        ...{ step: row.step, callId: row.call_id, input: row.input, waitedMs: row.waited_ms },
        requestId: row.request_id ?? undefined,
        traceparent: row.traceparent ?? undefined,
      }));
    },

    /** Deletes steps that are older; up to `limit`. Answers how many went. */
    async pruneSteps(olderThanMs: number, limit: number): Promise<number> {
      const [row] = await database.query<{ gone: number }>(
        'select conversation_worker.prune_steps($1, $2) as gone',
        [olderThanMs, limit],
      );
      return row?.gone ?? 0;
    },

    /** Deletes turns of the history that are older; up to `limit`. Answers how many went. */
    async pruneHistory(olderThanMs: number, limit: number): Promise<number> {
      const [row] = await database.query<{ gone: number }>(
        'select conversation_worker.prune_history($1, $2) as gone',
        [olderThanMs, limit],
      );
      return row?.gone ?? 0;
    },
  };
}

export type IntakeStore = ReturnType<typeof intakeStore>;

const call = (name: string, parameters: string) => ({
  name: `conversation_worker_${name}`,
  text: `select * from conversation_worker.${name}(${parameters})`,
});

const statements = {
  takeMessages: call('take_messages', '$1::jsonb, $2, $3, $4, $5, $6'),
  takeInbound: call('take_inbound', '$1::jsonb, $2, $3, $4, $5, $6'),
  turnsAhead: call('turns_ahead', '$1::text[], $2::uuid[]'),
  storeToolOutcomes: call('store_tool_outcomes', '$1::jsonb'),
  resumeTurns: call('resume_turns', '$1::text[], $2::text[], $3::uuid[], $4, $5, $6, $7, $8'),
  storeTaskUpdates: call('store_task_updates', '$1::jsonb'),
  askedTurns: call('asked_turns', '$1::text[], $2::uuid[]'),
  waitsOver: call('waits_over', '$1'),
};

async function storeArrived(
  tx: Queryable,
  statement: { name: string; text: string },
  arrived: readonly (ArrivedOutcome | ArrivedUpdate)[],
): Promise<OutcomeFate[]> {
  const rows = arrived.map((each) => ({
    ...{ tenant: each.tenant, key: each.key, turn_id: each.turnId, step: each.step, call_id: each.callId },
    ...{ event_id: each.eventId, outcome: each.outcome },
    ...('seq' in each ? { seq: each.seq } : {}),
  }));
  const found = await tx.query<OutcomeFate & { ord: string }>(statement, [JSON.stringify(rows)]);
  const byPlace = new Map(found.map((row) => [Number(row.ord), row]));
  return arrived.map((_, at) => byPlace.get(at + 1) ?? { fate: 'unknown', attempt: 1 });
}

function inboundJson(row: InboundRow): object {
  if ('cancels' in row) {
    const { tenant, key, cancels, turnId, reason } = row;
    return { tenant, key, cancels, turn_id: turnId, reason };
  }
  const { tenant, key, id, payload, traceparent, strategy } = row;
  return { tenant, key, id, format: row.format ?? 1, payload, traceparent, strategy };
}

/** A claim comes in JSON here, with numbers as numbers and times as text. */
interface ClaimJson extends Omit<ClaimedColumns, 'claimed' | 'fence' | 'enqueued_at' | 'opened'> {
  readonly fence: number;
  readonly enqueued_at: string;
  readonly lost?: number;
  readonly cancel?: unknown;
}

interface TakenColumns {
  readonly ord: number;
  readonly what: Exclude<Taken['what'], 'claimed_to_end'>;
  readonly turn_id: string;
  readonly note: unknown;
  readonly opened: OpenedColumns | null;
}

/** `note` is of the form that migration 0044 gives it for `what`. */
function takenOf({ ord, what, turn_id: turnId, note, opened }: TakenColumns): Taken {
  const place = ord - 1;
  switch (what) {
    case 'repeated':
      return { place, what };
    case 'taken':
      return { place, what, turnId, ahead: (note as { ahead: number }).ahead };
    case 'rejected':
      return { place, what, turnId, busyTurnId: (note as { busy_turn_id: string }).busy_turn_id };
    case 'flagged':
      return { place, what, turnId, cancel: (note as { cancel: TurnCancel }).cancel };
    case 'cancelled': {
      const { cancel, request_id, traceparent } = note as {
        cancel: TurnCancel;
        request_id: string | null;
        traceparent: string | null;
      };
      return {
        ...{ place, what, turnId, cancel },
        ...{ requestId: request_id ?? undefined, traceparent: traceparent ?? undefined },
      };
    }
    case 'claimed': {
      const { enqueued_at, fence, lost, cancel, ...columns } = note as ClaimJson;
      const claim = claimOf({ ...columns, fence: String(fence), enqueued_at: new Date(enqueued_at) });
      if (opened !== null) return { place, what, turnId, turn: { ...claim, opened: openedTurn(opened) } };
      return {
        ...{ place, what: 'claimed_to_end', turnId },
        turn: { ...claim, item: { ...claim.item, cancel, ...(lost === undefined ? {} : { lost }) } },
      };
    }
  }
}

interface ExpiredColumns {
  readonly tenant: string;
  readonly key: string;
  readonly turn_id: string;
  readonly session_id: string;
  readonly request_id: string | null;
  readonly traceparent: string | null;
  readonly step: number;
  readonly call_id: string;
  readonly input: ToolInput;
  readonly waited_ms: number;
}
