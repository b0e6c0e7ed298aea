import type { Outbox } from '@signalbox/messaging/messaging';
import { type OutgoingMessage, toRecord } from '@signalbox/messaging/outgoing';
import type { ModelMessage } from '@signalbox/model/model-port';
import type { Queryable } from '@signalbox/postgres/database';
import { currentTraceparent } from '@signalbox/telemetry/trace';
import type { Holder, WorkItem } from '@signalbox/work/queue';
import {
  type EndedJournal,
  type OpenedColumns,
  type OpenedTurn,
  openedTurn,
  stepsOf,
} from './opened-turn.ts';
import type { ModelOutcome, ToolInput, ToolOutcomeStored } from './turn-journal.ts';

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

/** How a cancelled turn ends. */
export interface CancelledEnd {
  readonly step: number;
  /** What the open model step came to; undefined when it did not run. */
  readonly outcome: ModelOutcome | undefined;
  /** For tool steps that are open by then, less its time. */
  readonly toolOutcome: Omit<ToolOutcomeStored, 'duration_ms'>;
  readonly sessionId: string;
  /** Undefined when nothing was said. */
  readonly history: TurnEnd['history'];
  readonly messages: readonly OutgoingMessage[];
}

/** The statements of a turn, one round trip each; what they promise stands in migrations 0042 and 0044. */
export function turnStore(
  database: Queryable,
  outbox: Pick<Outbox, 'writer' | 'committed' | 'failed'>,
  service: string,
) {
  async function put(name: string, message: readonly OutgoingMessage[], run: PutStatement): Promise<void> {
    const records = message.map((each) => ({
      ...toRecord(each, currentTraceparent(), service),
      tenant: each.tenant,
      eventId: each.eventId,
    }));
    const rows = await run(records).catch((error: unknown) => {
      outbox.failed(records, error);
      throw error;
    });
    outbox.committed(
      records.map((record, at) => {
        const row = rows[at];
        if (row === undefined) throw new Error(`${name} answered fewer rows than it got`);
        return { ...record, id: row.id, fast: row.fast, prevId: row.prev_id };
      }),
    );
  }

  return {
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

    /** The journal of a turn that is to be ended and does not run. LEASE_LOST. */
    async readJournal(item: WorkItem, holder: Holder): Promise<EndedJournal> {
      const [row] = await database.query<JournalColumns>(statements.readJournal, [
        item.tenant,
        item.key,
        holder.owner,
        holder.fence,
        item.id,
      ]);
      if (row === undefined) throw new Error('read_journal answered nothing');
      return { steps: stepsOf(row.steps), elapsedMs: row.elapsed_ms, foreignRows: row.rows_of_others };
    },

    /** Ends a cancelled turn with its last messages. LEASE_LOST. */
    async cancel(item: WorkItem, holder: Holder, end: CancelledEnd): Promise<void> {
      await put('cancel_turn', end.messages, (records) =>
        database.query<PutColumns>(statements.cancelTurn, [
          item.tenant,
          item.key,
          holder.owner,
          holder.fence,
          item.id,
          item.attempt,
          end.step,
          end.outcome ?? null,
          end.toolOutcome,
          end.sessionId,
          end.history === undefined ? null : JSON.stringify(end.history.messages),
          end.history?.tokens ?? null,
          outbox.writer,
          records.map(({ topic }) => topic),
          records.map(({ eventId }) => eventId),
          JSON.stringify(records.map(({ headers }) => headers)),
          records.map(({ value }) => value),
        ]),
      );
    },
  };
}

export type TurnStore = ReturnType<typeof turnStore>;

const call = (name: string, parameters: string) => ({
  name: `conversation_worker_${name}`,
  text: `select * from conversation_worker.${name}(${parameters})`,
});

const statements = {
  openHeldTurn: {
    name: 'conversation_worker_open_held_turn',
    text: 'select conversation_worker.open_held_turn($1, $2, $3, $4, $5, $6, $7, $8) as opened',
  },
  storeRound: call(
    'store_round',
    '$1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10, $11, $12::text[], $13::uuid[], $14::jsonb, $15::bytea[]',
  ),
  finishTurn: call(
    'finish_turn',
    '$1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11, $12, $13, $14, $15, $16::jsonb, $17',
  ),
  readJournal: call('read_journal', '$1, $2, $3, $4, $5'),
  cancelTurn: call(
    'cancel_turn',
    '$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb, $12, $13, $14::text[], $15::uuid[], $16::jsonb, $17::bytea[]',
  ),
};

interface JournalColumns {
  readonly steps: OpenedColumns['steps'];
  readonly elapsed_ms: number;
  readonly rows_of_others: boolean;
}
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
