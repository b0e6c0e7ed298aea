import { createHash } from 'node:crypto';
import type { MessagePosted } from '@signalbox/contracts/conversation-inbound';
import { conversationInboundSchema } from '@signalbox/contracts/conversation-inbound';
import { isId, newId } from '@signalbox/contracts/ids';
import { sessionKey } from '@signalbox/contracts/keys';
import { asFault, fault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import { type OutgoingMessage, toRecord } from '@signalbox/messaging/outgoing';
import type { Counter } from '@signalbox/telemetry/telemetry';
import type { AcceptLoad } from './accept-load.ts';
import type { AcceptOutcome, AcceptRow, MessageIds, StoredAnswer } from './accept-store.ts';
import type { PersonaCache } from './persona-cache.ts';
import { createSingleFlight } from './single-flight.ts';

export const acceptRoute = 'POST /v1/session/message';

/** A checked request to post a message. */
export interface PostedMessage {
  readonly tenant: string;
  readonly sessionId: string | undefined;
  readonly personaId: string | undefined;
  readonly message: string;
  readonly attachments: readonly Record<string, unknown>[] | undefined;
  readonly metadata: Record<string, unknown> | undefined;
  readonly idempotencyKey: string | undefined;
  /** As it came: two requests are the same when these bytes are. */
  readonly rawBody: Buffer;
  readonly requestId: string;
  readonly traceparent: string | undefined;
}

export interface AcceptedMessage {
  readonly ids: MessageIds;
  /** The answer is that of an earlier request with the same Idempotency-Key. */
  readonly replayed: boolean;
}

export interface AcceptMessageOptions {
  /** Stores a row together with those of its tick (accept-store.ts). */
  store(row: AcceptRow): Promise<AcceptOutcome>;
  /** The stored answer of an Idempotency-Key, for a request that may not come in anew. */
  findAnswer(tenant: string, key: string): Promise<StoredAnswer | undefined>;
  readonly load: AcceptLoad;
  readonly personas: PersonaCache;
  readonly defaultPersonaId: string;
  /** gateway_accept_total. */
  readonly accepts: Counter;
}

/** The outbox takes 900 kB of value and headers; a body under the HTTP limit can still be over that. */
const maxRowBytes = 890_000;

/**
 * Accepts a message: resolves when it is stored and will reach its worker, whatever becomes of this process. The order
 * of refusals: OUTBOX_FULL, TENANT_BUSY, NOT_FOUND (session), VALIDATION_ERROR (persona), BODY_TOO_LARGE,
 * IDEMPOTENCY_KEY_REUSED. DATABASE_UNAVAILABLE when it could not be stored, or it is not known whether it was: a client
 * that sent an Idempotency-Key repeats it safely.
 */
export function createAcceptMessage(options: AcceptMessageOptions) {
  const { store, findAnswer, load, personas, defaultPersonaId, accepts } = options;
  const oneAtATime = createSingleFlight<Settled>();

  async function accept(posted: PostedMessage): Promise<AcceptedMessage> {
    const { tenant } = posted;
    try {
      load.admit(tenant);
    } catch (refusal) {
      // A repeat adds no load, and its client must not be left to wonder whether the first try went through.
      return await storedAnswer(posted, refusal);
    }
    const row = await rowOf(posted);
    const { idempotency } = row;
    if (idempotency === undefined) return answer((await storeRow(row)).outcome);
    const settled = await oneAtATime(
      `${tenant} ${idempotency.key}`,
      () => storeRow(row),
      ({ outcome }) => outcome.kind === 'accepted' || outcome.kind === 'replayed',
      (first) => followed(first, idempotency.bodyHash),
    );
    return answer(settled.outcome);
  }

  async function storedAnswer(posted: PostedMessage, refusal: unknown): Promise<AcceptedMessage> {
    const { tenant, idempotencyKey: key } = posted;
    const stored = key === undefined ? undefined : await findAnswer(tenant, key);
    if (stored === undefined) throw refusal;
    return answer(
      stored.bodyHash.equals(hashOf(posted.rawBody))
        ? { kind: 'replayed', ids: stored.ids }
        : { kind: 'key_reused' },
    );
  }

  async function rowOf(posted: PostedMessage): Promise<AcceptRow> {
    const { tenant, sessionId: given, traceparent, requestId } = posted;
    if (given !== undefined && !isId(given)) throw noSession();
    const isNew = given === undefined;
    const personaId = posted.personaId ?? (isNew ? defaultPersonaId : undefined);
    if (personaId !== undefined && !(await personas.has(tenant, personaId))) {
      throw fault('VALIDATION_ERROR', 'the persona is not known', {
        errors: [{ path: '/persona_id', message: `${personaId} is not a persona of this tenant` }],
      });
    }
    const ids = { sessionId: given ?? newId(), turnId: newId(), eventId: newId() };
    const value: Omit<MessagePosted, 'persona_id'> = {
      session_id: ids.sessionId,
      turn_id: ids.turnId,
      event_id: ids.eventId,
      message: posted.message,
      ...(posted.attachments === undefined ? {} : { attachments: [...posted.attachments] }),
      ...(posted.metadata === undefined ? {} : { metadata: posted.metadata }),
      accepted_at: new Date().toISOString(),
    };
    const message: OutgoingMessage = {
      topic: 'conversation.inbound',
      key: sessionKey(tenant, ids.sessionId),
      tenant,
      eventType: 'message.posted',
      schema: conversationInboundSchema,
      eventId: ids.eventId,
      sessionId: ids.sessionId,
      requestId,
      traceparent,
      value: null,
    };
    const { headers } = toRecord(message, traceparent, 'gateway');
    const valueTail = JSON.stringify(value).slice(1);
    if (Buffer.byteLength(valueTail) + Buffer.byteLength(JSON.stringify(headers)) > maxRowBytes) {
      throw fault('BODY_TOO_LARGE', `a message is at most ${maxRowBytes} bytes as it is stored`);
    }
    const { idempotencyKey: key } = posted;
    const idempotency = key === undefined ? undefined : { key, bodyHash: hashOf(posted.rawBody) };
    return { tenant, ...ids, isNew, personaId, idempotency, headers, valueTail };
  }

  async function storeRow(row: AcceptRow): Promise<Settled> {
    const outcome = await store(row);
    if (outcome.kind === 'accepted') load.accepted(row.tenant);
    failPoint('accept.committed');
    return { outcome, bodyHash: row.idempotency?.bodyHash };
  }

  return async (posted: PostedMessage): Promise<AcceptedMessage> => {
    try {
      const accepted = await accept(posted);
      accepts.add(1, { result: accepted.replayed ? 'replayed' : 'accepted' });
      return accepted;
    } catch (error) {
      accepts.add(1, { result: asFault(error).code.toLowerCase() });
      throw error;
    }
  };
}

interface Settled {
  readonly outcome: AcceptOutcome;
  /** Of the request that went to the database. */
  readonly bodyHash: Buffer | undefined;
}

/** What a request gets that waited for another with its key. */
function followed(first: Settled, bodyHash: Buffer): Settled {
  const { outcome } = first;
  if (outcome.kind !== 'accepted' && outcome.kind !== 'replayed') return first;
  return first.bodyHash?.equals(bodyHash) === true
    ? { outcome: { kind: 'replayed', ids: outcome.ids }, bodyHash }
    : { outcome: { kind: 'key_reused' }, bodyHash };
}

function answer(outcome: AcceptOutcome): AcceptedMessage {
  switch (outcome.kind) {
    case 'accepted':
      return { ids: outcome.ids, replayed: false };
    case 'replayed':
      return { ids: outcome.ids, replayed: true };
    case 'key_reused':
      throw fault('IDEMPOTENCY_KEY_REUSED', 'this Idempotency-Key was used with another body');
    case 'no_session':
      throw noSession();
    case 'failed':
      throw outcome.failure;
  }
}

function hashOf(body: Buffer): Buffer {
  return createHash('sha256').update(body).digest();
}

function noSession(): Error {
  return fault('NOT_FOUND', 'there is no such session');
}
