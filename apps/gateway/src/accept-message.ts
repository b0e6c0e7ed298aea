import type { AcceptLoad, Place } from '@signalbox/api/accept-load';
import { keyReused } from '@signalbox/api/idempotency-store';
import type { MessagePosted, MultitaskStrategy } from '@signalbox/contracts/conversation-inbound';
import { conversationInboundSchema } from '@signalbox/contracts/conversation-inbound';
import { isId, newId } from '@signalbox/contracts/ids';
import { sessionKey } from '@signalbox/contracts/keys';
import { fault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import { type OutgoingMessage, toRecord } from '@signalbox/messaging/outgoing';
import type { AcceptOutcome, AcceptRow, MessageIds, StoredAnswer } from './accept-store.ts';
import type { PersonaCache } from './persona-cache.ts';

export const acceptRoute = 'POST /v1/session/message';

/** A checked request to post a message. */
export interface PostedMessage {
  readonly tenant: string;
  readonly sessionId: string | undefined;
  readonly personaId: string | undefined;
  readonly message: string;
  readonly attachments: readonly Record<string, unknown>[] | undefined;
  readonly metadata: Record<string, unknown> | undefined;
  readonly multitaskStrategy: MultitaskStrategy | undefined;
  /** Requests of one key come one at a time (write-routes.ts). */
  readonly idempotency: AcceptRow['idempotency'];
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
  const { store, findAnswer, load, personas, defaultPersonaId } = options;

  async function storedAnswer(posted: PostedMessage, refusal: unknown): Promise<AcceptedMessage> {
    const { tenant, idempotency } = posted;
    const stored = idempotency === undefined ? undefined : await findAnswer(tenant, idempotency.key);
    if (idempotency === undefined || stored === undefined) throw refusal;
    return answer(
      stored.bodyHash.equals(idempotency.bodyHash)
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
      ...(posted.multitaskStrategy === undefined ? {} : { multitask_strategy: posted.multitaskStrategy }),
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
    return { tenant, ...ids, isNew, personaId, idempotency: posted.idempotency, headers, valueTail };
  }

  return async (posted: PostedMessage): Promise<AcceptedMessage> => {
    let place: Place;
    try {
      place = load.admit(posted.tenant);
    } catch (refusal) {
      // A repeat adds no load, and its client must not be left to wonder whether the first try went through.
      return await storedAnswer(posted, refusal);
    }
    let stored = false;
    let outcome: AcceptOutcome;
    try {
      outcome = await store(await rowOf(posted));
      stored = outcome.kind === 'accepted';
    } finally {
      place.settle(stored);
    }
    failPoint('accept.committed');
    return answer(outcome);
  };
}

function answer(outcome: AcceptOutcome): AcceptedMessage {
  switch (outcome.kind) {
    case 'accepted':
      return { ids: outcome.ids, replayed: false };
    case 'replayed':
      return { ids: outcome.ids, replayed: true };
    case 'key_reused':
      throw keyReused();
    case 'no_session':
      throw noSession();
    case 'failed':
      throw outcome.failure;
  }
}

function noSession(): Error {
  return fault('NOT_FOUND', 'there is no such session');
}
