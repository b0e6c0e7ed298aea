import type { ToolOutcomeReported } from '@signalbox/contracts/tool-results';
import { readValue } from '@signalbox/contracts/validate';
import type { Outbox, OutgoingMessage } from '@signalbox/messaging/messaging';
import { toRecord } from '@signalbox/messaging/outgoing';
import type { Queryable } from '@signalbox/postgres/database';
import { currentTraceparent } from '@signalbox/telemetry/trace';
import type { Lease, WorkItem } from '@signalbox/work/worker';
import { serviceName } from './service-name.ts';

interface PutColumns {
  readonly id: string;
  readonly fast: boolean;
  readonly prev_id: string | null;
}

export interface CallStore {
  /**
   * Ends a call: its outcome, the end of its work and the answer in one transaction, then the answer's fast path.
   * Faults: LEASE_LOST (nothing was stored), DATABASE_UNAVAILABLE (may have been: repeat it).
   */
  finish(item: WorkItem, lease: Lease, outcome: ToolOutcomeReported, answer: OutgoingMessage): Promise<void>;
  /** Sends what is told on the way, while the lane is still the holder's. Faults as `finish`. */
  tell(item: WorkItem, lease: Lease, message: OutgoingMessage): Promise<void>;
  /** Keeps the outcome of a call that ended before it ran, and answers with what was asked; undefined if it had one. */
  endWaiting(
    tx: Queryable,
    call: { readonly tenant: string; readonly id: string },
    outcome: ToolOutcomeReported,
  ): Promise<{ readonly payload: unknown; readonly traceparent: string | undefined } | undefined>;
  /** Outcomes of those calls that have one, by `tenant id`. */
  outcomes(
    tx: Queryable,
    calls: readonly { tenant: string; id: string }[],
  ): Promise<Map<string, ToolOutcomeReported>>;
}

const put = 'id, fast, prev_id';
const finishCall = {
  name: 'tool_executor_finish_call',
  text: `select ${put} from tool_executor.finish_call($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
};
const tellCall = {
  name: 'tool_executor_tell_call',
  text: `select ${put} from tool_executor.tell_call($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
};
const endWaitingCall = 'select payload, traceparent from tool_executor.end_waiting_call($1, $2, $3)';
const storedOutcomes = 'select tenant, id, outcome from tool_executor.stored_outcomes($1, $2)';

export function callStore(
  database: Queryable,
  outbox: Pick<Outbox, 'writer' | 'committed' | 'failed'>,
): CallStore {
  /** The message as the last five parameters, and what the outbox is told of it after the commit. */
  async function send(
    message: OutgoingMessage,
    run: (columns: readonly unknown[]) => Promise<PutColumns[]>,
  ): Promise<void> {
    const { topic, key, tenant, eventId } = message;
    const { headers, value } = toRecord(message, currentTraceparent(), serviceName);
    const columns = [outbox.writer, [topic], [key], [eventId], JSON.stringify([headers]), [value]];
    const rows = await run(columns).catch((error: unknown) => {
      outbox.failed([message], error);
      throw error;
    });
    outbox.committed(
      rows.map(({ id, fast, prev_id: prevId }) => ({
        id,
        fast,
        prevId,
        topic,
        key,
        tenant,
        eventId,
        headers,
        value,
      })),
    );
  }
  return {
    finish: ({ tenant, key, id }, { owner, fence }, outcome, answer) =>
      send(answer, (columns) =>
        database.query(finishCall, [tenant, key, owner, fence, id, JSON.stringify(outcome), ...columns]),
      ),
    tell: ({ tenant, key }, { owner, fence }, message) =>
      send(message, (columns) => database.query(tellCall, [tenant, key, owner, fence, ...columns])),
    async endWaiting(tx, { tenant, id }, outcome) {
      const values = [tenant, id, JSON.stringify(outcome)];
      const [row] = await tx.query<{ payload: unknown; traceparent: string | null }>(endWaitingCall, values);
      return row === undefined
        ? undefined
        : { payload: row.payload, traceparent: row.traceparent ?? undefined };
    },
    async outcomes(tx, calls) {
      const rows = await tx.query<{ tenant: string; id: string; outcome: unknown }>(storedOutcomes, [
        calls.map(({ tenant }) => tenant),
        calls.map(({ id }) => id),
      ]);
      const found = new Map<string, ToolOutcomeReported>();
      for (const { tenant, id, outcome } of rows) {
        const value = readValue('tool.results', 'tool.outcome', outcome);
        if (value !== undefined) {
          found.set(`${tenant} ${id}`, value);
        }
      }
      return found;
    },
  };
}
