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

/** How a turn ends. */
export interface TurnEnd {
  readonly step: number;
  /** What the open model step came to; undefined when it came to nothing, or did not run. */
  readonly outcome: ModelOutcome | undefined;
  /** Of a cancelled turn: for tool steps that are open by then, less its time. */
  readonly toolOutcome?: Omit<ToolOutcomeStored, 'duration_ms'>;
  readonly sessionId: string;
  /** Undefined for a turn that failed, and where nothing was said. */
  readonly history: { readonly messages: readonly ModelMessage[]; readonly tokens: number } | undefined;
  readonly state: 'done' | 'failed' | 'cancelled';
  readonly error?: string;
  /** Its last event, and what others are told. */
  readonly messages: readonly OutgoingMessage[];
}

/** The statements of a turn, one round trip each; what they promise stands in migrations 0042, 0044 and 0047. */
export function turnStore(
  database: Queryable,
  outbox: Pick<Outbox, 'writer' | 'committed' | 'failed'>,
  service: string,
) {
  async function put(name: string, messages: readonly OutgoingMessage[], run: PutStatement): Promise<void> {
    const records = messages.map((each) => ({
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

  function columnsOf(records: readonly PutRecord[]): unknown[] {
    return [
      outbox.writer,
      records.map(({ topic }) => topic),
      records.map(({ key }) => key),
      records.map(({ eventId }) => eventId),
      JSON.stringify(records.map(({ headers }) => headers)),
      records.map(({ value }) => value),
    ];
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
      await put('end_round', round.messages, (records) =>
        database.query<PutColumns>(statements.endRound, [
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
          ...columnsOf(records),
        ]),
      );
    },

    /** Ends the turn with its last messages. LEASE_LOST. */
    async end(item: WorkItem, holder: Holder, end: TurnEnd): Promise<void> {
      await put('end_turn', end.messages, (records) =>
        database.query<PutColumns>(statements.endTurn, [
          item.tenant,
          item.key,
          holder.owner,
          holder.fence,
          item.id,
          item.attempt,
          end.step,
          end.outcome ?? null,
          end.toolOutcome ?? null,
          end.sessionId,
          end.history === undefined ? null : JSON.stringify(end.history.messages),
          end.history?.tokens ?? null,
          end.state,
          end.error ?? null,
          ...columnsOf(records),
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
  endRound: call(
    'end_round',
    '$1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10, $11, $12::text[], $13::text[], $14::uuid[], $15::jsonb, $16::bytea[]',
  ),
  endTurn: call(
    'end_turn',
    '$1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10, $11::jsonb, $12, $13, $14, $15, $16::text[], $17::text[], $18::uuid[], $19::jsonb, $20::bytea[]',
  ),
  readJournal: call('read_journal', '$1, $2, $3, $4, $5'),
};

interface JournalColumns {
  readonly steps: OpenedColumns['steps'];
  readonly elapsed_ms: number;
  readonly rows_of_others: boolean;
}
interface PutRecord {
  readonly topic: string;
  readonly key: string;
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
