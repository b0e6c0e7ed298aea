import { groupByTenant } from '@signalbox/api/tenant-rows';
import type { RecordHeaders } from '@signalbox/contracts/headers';
import { sessionKey } from '@signalbox/contracts/keys';
import { type Fault, fault, isFault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import type { Outbox, PutResult } from '@signalbox/messaging/messaging';
import type { Database } from '@signalbox/postgres/database';

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
  readonly headers: RecordHeaders;
  /** The value's JSON object without its opening brace and without persona_id, which only the database may know. */
  readonly valueTail: string;
}

export interface MessageIds {
  readonly sessionId: string;
  readonly eventId: string;
  readonly turnId: string;
}

export type AcceptOutcome =
  | { readonly kind: 'accepted'; readonly ids: MessageIds }
  | { readonly kind: 'replayed'; readonly ids: MessageIds }
  | { readonly kind: 'key_reused' }
  | { readonly kind: 'no_session' }
  | { readonly kind: 'failed'; readonly failure: Fault };

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

const topic = 'conversation.inbound';

const statement = {
  name: 'gateway_accept',
  text: 'select * from gateway.accept($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14)',
};

/** SQLSTATEs after which the same rows may well be stored: deadlock, serialization, lock timeout. */
const transientStates = new Set(['40P01', '40001', '55P03']);

export interface AcceptStoreOptions {
  readonly database: Database;
  readonly outbox: Pick<Outbox, 'writer' | 'committed'>;
  readonly route: string;
  /** How long a tick whose outcome is unknown is repeated with the same ids. */
  readonly timeoutMs: number;
}

/**
 * Stores the messages of one tick by one statement. A statement whose outcome is unknown (the connection broke after it
 * was sent) is repeated with the same ids until it is known or the time is over: DATABASE_UNAVAILABLE. When a tenant's
 * rows are refused together, each is tried alone, so that a bad one fails alone.
 */
export function createAcceptStore(
  options: AcceptStoreOptions,
): (rows: readonly AcceptRow[]) => Promise<AcceptOutcome[]> {
  const { database, outbox, route, timeoutMs } = options;

  async function once(rows: readonly AcceptRow[]): Promise<AcceptOutcome[]> {
    const grouped = groupByTenant(rows);
    const results = await database.query<ResultRow>(statement, [
      outbox.writer,
      topic,
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
    const answered = new Array<AcceptOutcome | undefined>(rows.length);
    const committed: PutResult[] = [];
    for (const result of results) {
      const row = grouped.rows[result.ord - 1];
      const place = grouped.origin[result.ord - 1];
      if (row === undefined || place === undefined) continue;
      answered[place] = readOutcome(result);
      const put = putOf(row, result);
      if (put !== undefined) committed.push(put);
    }
    outbox.committed(committed.sort((a, b) => Number(a.id) - Number(b.id)));
    return Array.from(answered, (outcome) => outcome ?? leftOut());
  }

  async function untilKnown(rows: readonly AcceptRow[]): Promise<AcceptOutcome[]> {
    const deadline = performance.now() + timeoutMs;
    for (let delayMs = 25; ; delayMs = Math.min(delayMs * 2, 400)) {
      try {
        return await once(rows);
      } catch (error) {
        if (!isFault(error, 'DATABASE_UNAVAILABLE') || performance.now() + delayMs > deadline) throw error;
        await pause(delayMs / 2 + Math.random() * (delayMs / 2));
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

function leftOut(): AcceptOutcome {
  return {
    kind: 'failed',
    failure: fault('INTERNAL_ERROR', 'the accept statement left a row without an outcome'),
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
        ? fault('DATABASE_UNAVAILABLE', 'the database could not store the message now', {
            details,
            retryAfterMs: 1000,
          })
        : fault('INTERNAL_ERROR', 'the message was not stored', { details }),
    };
  }
  const ids = { sessionId, eventId, turnId };
  return { kind: row.outcome === 'replayed' ? 'replayed' : 'accepted', ids };
}

/** The outbox row of a message that was stored now; one that an earlier try stored is the relay's. */
function putOf(row: AcceptRow, result: ResultRow): PutResult | undefined {
  const { outbox_id: id, persona_id: personaId } = result;
  if (id === null || personaId === null) return undefined;
  return {
    id,
    fast: result.fast === true,
    prevId: result.prev_id,
    topic,
    key: sessionKey(row.tenant, row.sessionId),
    tenant: row.tenant,
    eventId: row.eventId,
    headers: row.headers,
    value: Buffer.from(`{"persona_id":${JSON.stringify(personaId)},${row.valueTail}`),
  };
}

/** What an idempotency key was answered with. */
export interface StoredAnswer {
  readonly bodyHash: Buffer;
  readonly ids: MessageIds;
}

/** Undefined when the tenant has no such key. */
export async function findAnswer(
  database: Database,
  tenant: string,
  route: string,
  key: string,
): Promise<StoredAnswer | undefined> {
  const [row] = await database.transaction(
    (tx) =>
      tx.query<{ body_hash: Buffer; answer: { session_id: string; event_id: string; turn_id: string } }>(
        {
          name: 'gateway_answer',
          text: 'select body_hash, answer from gateway.idempotency_keys where tenant = $1 and route = $2 and key = $3',
        },
        [tenant, route, key],
      ),
    { tenant },
  );
  if (row === undefined) return undefined;
  const { session_id: sessionId, event_id: eventId, turn_id: turnId } = row.answer;
  return { bodyHash: row.body_hash, ids: { sessionId, eventId, turnId } };
}
