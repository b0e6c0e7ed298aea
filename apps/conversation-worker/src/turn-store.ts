import type { Outbox } from '@signalbox/messaging/messaging';
import { type OutgoingMessage, toRecord } from '@signalbox/messaging/outgoing';
import type { ModelMessage } from '@signalbox/model/model-port';
import type { Queryable } from '@signalbox/postgres/database';
import { currentTraceparent } from '@signalbox/telemetry/trace';
import { type Holder, rowsJson, type WorkItem, type WorkRow } from '@signalbox/work/queue';
import {
  type ClaimedColumns,
  type ClaimedTurn,
  claimedTurn,
  type OpenedColumns,
  type OpenedTurn,
  openedTurn,
} from './opened-turn.ts';
import type { ModelOutcome, ToolInput, ToolOutcomeStored } from './turn-journal.ts';

export interface ClaimTerms {
  readonly owner: string;
  readonly slots: number;
  readonly leaseMs: number;
  readonly historyTokens: number;
}

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

/** `attempt` is the step's: that of the turn when it asked for the call. */
export interface OutcomeFate {
  readonly fate: 'applied' | 'late' | 'repeated' | 'unknown';
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
  readonly tool: string;
  readonly waitedMs: number;
}

/** The tool steps of a round; `waitMs` says how long to wait where there is no outcome yet. */
export interface NewToolStep {
  readonly step: number;
  readonly callId: string;
  readonly input: ToolInput;
  readonly outcome: ToolOutcomeStored | undefined;
  readonly waitMs: number;
}

export interface RoundEnd {
  readonly step: number;
  readonly outcome: ModelOutcome;
  readonly toolSteps: readonly NewToolStep[];
  readonly messages: readonly OutgoingMessage[];
}

export interface TurnEnd {
  readonly step: number;
  /** Undefined when the open step came to nothing. */
  readonly outcome: ModelOutcome | undefined;
  readonly sessionId: string;
  /** Undefined for a turn that failed. */
  readonly history: { readonly messages: readonly ModelMessage[]; readonly tokens: number } | undefined;
  readonly state: 'done' | 'failed';
  readonly error: string | undefined;
  readonly message: OutgoingMessage;
}

/** Versions of a turn's row and steps that this release can continue. */
export const turnFormats: readonly number[] = [1];

/** The statements of a turn, one round trip each; what they promise stands in migration 0042. */
export function turnStore(
  database: Queryable,
  outbox: Pick<Outbox, 'writer' | 'committed'>,
  service: string,
) {
  async function put(name: string, message: readonly OutgoingMessage[], run: PutStatement): Promise<void> {
    const records = message.map((each) => ({
      ...toRecord(each, currentTraceparent(), service),
      tenant: each.tenant,
      eventId: each.eventId,
    }));
    const rows = await run(records);
    outbox.committed(
      records.map((record, at) => {
        const row = rows[at];
        if (row === undefined) throw new Error(`${name} answered fewer rows than it got`);
        return { ...record, id: row.id, fast: row.fast, prevId: row.prev_id };
      }),
    );
  }

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

    async queuePlaces(tx: Queryable, owner: string, turns: readonly { tenant: string; id: string }[]) {
      const values = [owner, turns.map(({ tenant }) => tenant), turns.map(({ id }) => id)];
      const found = await tx.query<{ id: string; ahead: number; may_write: boolean }>(
        statements.queuePlaces,
        values,
      );
      return new Map(found.map((row) => [row.id, { ahead: row.ahead, mayWrite: row.may_write }]));
    },

    /** The start of a run for a turn that was claimed by itself. Faults: LEASE_LOST. */
    async open(item: WorkItem, holder: Holder, historyTokens: number): Promise<OpenedTurn> {
      const [row] = await database.query<{ opened: OpenedColumns }>(statements.openHeldTurn, [
        item.tenant,
        item.key,
        holder.owner,
        holder.fence,
        item.id,
        item.payload,
        item.attempt,
        historyTokens,
      ]);
      if (row === undefined) throw new Error('open_held_turn answered nothing');
      return openedTurn(row.opened);
    },

    async storeToolOutcomes(tx: Queryable, arrived: readonly ArrivedOutcome[]): Promise<OutcomeFate[]> {
      const rows = arrived.map((each) => ({
        tenant: each.tenant,
        key: each.key,
        turn_id: each.turnId,
        step: each.step,
        call_id: each.callId,
        event_id: each.eventId,
        outcome: each.outcome,
      }));
      const found = await tx.query<OutcomeFate & { ord: string }>(statements.storeToolOutcomes, [
        JSON.stringify(rows),
      ]);
      const byPlace = new Map(found.map((row) => [Number(row.ord), row]));
      return arrived.map((_, at) => byPlace.get(at + 1) ?? { fate: 'unknown', attempt: 1 });
    },

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

    /** Ends a round of tools: parks the turn, or opens its next step when no outcome is waited for. LEASE_LOST. */
    async storeRound(item: WorkItem, holder: Holder, round: RoundEnd): Promise<void> {
      const steps = round.toolSteps.map((each) => ({
        step: each.step,
        operation_key: each.callId,
        input: each.input,
        outcome: each.outcome,
        wait_ms: each.waitMs,
      }));
      const pending = round.toolSteps.filter(({ outcome }) => outcome === undefined).length;
      await put('store_round', round.messages, (records) =>
        database.query<PutColumns>(statements.storeRound, [
          item.tenant,
          item.key,
          holder.owner,
          holder.fence,
          item.id,
          item.attempt,
          round.step,
          round.outcome,
          JSON.stringify(steps),
          pending,
          outbox.writer,
          records.map(({ topic }) => topic),
          records.map(({ eventId }) => eventId),
          JSON.stringify(records.map(({ headers }) => headers)),
          records.map(({ value }) => value),
        ]),
      );
    },

    /** Ends the turn with its final event. LEASE_LOST. */
    async finish(item: WorkItem, holder: Holder, end: TurnEnd): Promise<void> {
      await put('finish_turn', [end.message], (records) =>
        database.query<PutColumns>(statements.finishTurn, [
          item.tenant,
          item.key,
          holder.owner,
          holder.fence,
          item.id,
          item.attempt,
          end.step,
          end.outcome ?? null,
          end.sessionId,
          end.history === undefined ? null : JSON.stringify(end.history.messages),
          end.history?.tokens ?? null,
          end.state,
          end.error ?? null,
          outbox.writer,
          records[0]?.eventId,
          JSON.stringify(records.map(({ headers }) => headers)),
          records[0]?.value,
        ]),
      );
    },

    async expiredWaits(limit: number): Promise<ExpiredWait[]> {
      const found = await database.query<ExpiredColumns>(statements.expiredWaits, [limit]);
      return found.map((row) => ({
        tenant: row.tenant,
        key: row.key,
        turnId: row.turn_id,
        sessionId: row.session_id,
        requestId: row.request_id ?? undefined,
        traceparent: row.traceparent ?? undefined,
        step: row.step,
        callId: row.call_id,
        tool: row.tool,
        waitedMs: row.waited_ms,
      }));
    },

    async pruneSteps(olderThanMs: number, limit: number): Promise<number> {
      const [row] = await database.query<{ gone: number }>(
        'select conversation_worker.prune_steps($1, $2) as gone',
        [olderThanMs, limit],
      );
      return row?.gone ?? 0;
    },
  };
}

export type TurnStore = ReturnType<typeof turnStore>;

const call = (name: string, parameters: string) => ({
  name: `conversation_worker_${name}`,
  text: `select * from conversation_worker.${name}(${parameters})`,
});

const statements = {
  takeMessages: call('take_messages', '$1::jsonb, $2, $3, $4, $5, $6'),
  queuePlaces: call('queue_places', '$1, $2::text[], $3::uuid[]'),
  openHeldTurn: {
    name: 'conversation_worker_open_held_turn',
    text: 'select conversation_worker.open_held_turn($1, $2, $3, $4, $5, $6, $7, $8) as opened',
  },
  storeToolOutcomes: call('store_tool_outcomes', '$1::jsonb'),
  resumeTurns: call('resume_turns', '$1::text[], $2::text[], $3::uuid[], $4, $5, $6, $7, $8'),
  storeRound: call(
    'store_round',
    '$1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10, $11, $12::text[], $13::uuid[], $14::jsonb, $15::bytea[]',
  ),
  finishTurn: call(
    'finish_turn',
    '$1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11, $12, $13, $14, $15, $16::jsonb, $17',
  ),
  expiredWaits: call('expired_waits', '$1'),
};

interface PutRecord {
  readonly topic: string;
  readonly eventId: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly value: Buffer | null;
}
interface PutColumns {
  readonly id: string;
  readonly fast: boolean;
  readonly prev_id: string | null;
}
type PutStatement = (records: readonly PutRecord[]) => Promise<readonly PutColumns[]>;

interface ExpiredColumns {
  readonly tenant: string;
  readonly key: string;
  readonly turn_id: string;
  readonly session_id: string;
  readonly request_id: string | null;
  readonly traceparent: string | null;
  readonly step: number;
  readonly call_id: string;
  readonly tool: string;
  readonly waited_ms: number;
}
