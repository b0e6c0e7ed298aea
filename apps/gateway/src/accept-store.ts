import { type Fault, fault, isFault } from '@signalbox/faults/fault';
import type { Database } from '@signalbox/postgres/database';
import { groupByTenant } from './tick-batcher.ts';

/** One message on its way in. The ids are made before the first try, so that a repeat is the same request. */
export interface AcceptRow {
  readonly tenant: string;
  readonly sessionId: string;
  /** The session is made with this message. */
  readonly isNew: boolean;
  readonly eventId: string;
  readonly turnId: string;
  /** Undefined: the session's own. */
  readonly personaId: string | undefined;
  readonly idempotency: { readonly key: string; readonly bodyHash: Buffer } | undefined;
  readonly headers: Readonly<Record<string, string>>;
  /** The value's JSON object without its opening brace and without persona_id, which only the database may know. */
  readonly valueTail: string;
}

export interface MessageIds {
  readonly sessionId: string;
  readonly eventId: string;
  readonly turnId: string;
}

export type AcceptOutcome =
  | { readonly kind: 'accepted'; readonly ids: MessageIds; readonly personaId: string; readonly outbox: OutboxTicket | undefined }
  | { readonly kind: 'replayed'; readonly ids: MessageIds }
  | { readonly kind: 'key_reused' }
  | { readonly kind: 'no_session' }
  | { readonly kind: 'failed'; readonly failure: Fault };

export interface OutboxTicket {
  readonly id: string;
  readonly fast: boolean;
  readonly prevId: string | undefined;
}

interface ResultRow {
  ord: number;
  outcome: 'accepted' | 'again' | 'replayed' | 'key_reused' | 'no_session' | 'failed';
  session_id: string | null;
  event_id: string | null;
  turn_id: string | null;
  persona_id: string | null;
  outbox_id: string | null;
  fast: boolean | null;
  prev_id: string | null;
  detail: string | null;
}

const statement = {
  name: 'gateway_accept',
  text: 'select * from gateway.accept($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14)',
};

/** SQLSTATEs after which the same rows may well be stored: deadlock, serialization, lock timeout. */
const transientStates = new Set(['40P01', '40001', '55P03']);

export interface AcceptStoreOptions {
  readonly database: Database;
  /** This process as writer of outbox rows. */
  readonly instanceId: string;
  readonly route: string;
  /** How long a tick whose outcome is unknown is repeated with the same ids. */
  readonly timeoutMs: number;
}

/**
 * Stores the messages of one tick by one statement. A statement whose outcome is unknown (the connection broke after it
 * was sent) is repeated with the same ids until it is known or the time is over: DATABASE_UNAVAILABLE. When a tenant's
 * rows are refused together, each is tried alone, so that a bad one fails alone.
 */
export function createAcceptStore(options: AcceptStoreOptions): (rows: readonly AcceptRow[]) => Promise<AcceptOutcome[]> {
  const { database, instanceId, route, timeoutMs } = options;

  async function once(rows: readonly AcceptRow[]): Promise<AcceptOutcome[]> {
    const grouped = groupByTenant(rows);
    const results = await database.query<ResultRow>(statement, [
      instanceId,
      'conversation.inbound',
      route,
      grouped.tenants,
      grouped.upto,
      grouped.rows.map((row) => row.sessionId),
      grouped.rows.map((row) => row.isNew),
      grouped.rows.map((row) => row.eventId),
      grouped.rows.map((row) => row.turnId),
      grouped.rows.map((row) => row.personaId ?? null),
      grouped.rows.map((row) => row.idempotency?.key ?? null),
      grouped.rows.map((row) => row.idempotency?.bodyHash ?? null),
      grouped.rows.map((row) => JSON.stringify(row.headers)),
      grouped.rows.map((row) => row.valueTail),
    ]);
    const outcomes = new Array<AcceptOutcome>(rows.length).fill({
      kind: 'failed',
      failure: fault('INTERNAL_ERROR', 'the accept statement left a row without an outcome'),
    });
    for (const result of results) {
      const place = grouped.origin[result.ord - 1];
      if (place !== undefined) outcomes[place] = readOutcome(result);
    }
    return outcomes;
  }

  async function untilKnown(rows: readonly AcceptRow[]): Promise<AcceptOutcome[]> {
    const deadline = performance.now() + timeoutMs;
    for (let delayMs = 25; ; delayMs = Math.min(delayMs * 2, 400)) {
      try {
        return await once(rows);
      } catch (error) {
        if (!isFault(error, 'DATABASE_UNAVAILABLE') || performance.now() + delayMs > deadline) throw error;
        await new Promise((resolve) => setTimeout(resolve, delayMs / 2 + Math.random() * (delayMs / 2)));
      }
    }
  }

  return async (rows) => {
    const outcomes = await untilKnown(rows);
    if (rows.length === 1) return outcomes;
    const alone = outcomes.flatMap((outcome, index) => (outcome.kind === 'failed' ? [index] : []));
    for (const index of alone) {
      const row = rows[index];
      const [outcome] = row === undefined ? [] : await untilKnown([row]);
      if (outcome !== undefined) outcomes[index] = outcome;
    }
    return outcomes;
  };
}

function readOutcome(row: ResultRow): AcceptOutcome {
  if (row.outcome === 'key_reused' || row.outcome === 'no_session') return { kind: row.outcome };
  const { session_id: sessionId, event_id: eventId, turn_id: turnId } = row;
  if (row.outcome === 'failed' || sessionId === null || eventId === null || turnId === null) {
    const state = row.detail ?? 'none';
    const details = { sqlState: state };
    return {
      kind: 'failed',
      failure: transientStates.has(state)
        ? fault('DATABASE_UNAVAILABLE', 'the database could not store the message now', { details, retryAfterMs: 1000 })
        : fault('INTERNAL_ERROR', 'the message was not stored', { details }),
    };
  }
  const ids = { sessionId, eventId, turnId };
  if (row.outcome === 'replayed') return { kind: 'replayed', ids };
  const outbox =
    row.outbox_id === null
      ? undefined
      : { id: row.outbox_id, fast: row.fast === true, prevId: row.prev_id ?? undefined };
  return { kind: 'accepted', ids, personaId: row.persona_id ?? '', outbox };
}
