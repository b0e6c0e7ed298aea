import { headerNames, type RecordHeaders } from '@signalbox/contracts/headers';
import { isId, newId } from '@signalbox/contracts/ids';
import { deadLetterTopic, isSourceTopic, type TopicName } from '@signalbox/contracts/topics';
import type { Transaction } from '@signalbox/postgres/database';
import { formatTraceparent, parseTraceparent } from '@signalbox/telemetry/trace';
import type { OutgoingMessage } from './outgoing.ts';

/** The tenant of a record that does not say a readable one. No credential can have it: a slug has no underscore. */
export const unknownTenant = '_unknown';

export type DeadLetterReason =
  | 'bad_key'
  | 'bad_headers'
  | 'not_json'
  | 'schema'
  | 'content'
  | 'handler'
  | 'declared'
  | 'broker_refused';

export interface DeadLetter {
  readonly tenant: string;
  readonly topic: TopicName;
  /** −1 for an outbox row that the broker refused; its id is the offset then. */
  readonly partition: number;
  readonly offset: bigint;
  readonly timestampMs: number;
  /** The consumer group, or `outbox`. */
  readonly consumer: string;
  readonly reason: DeadLetterReason;
  /** For people; cut to 2 000 characters. */
  readonly detail: string;
  readonly attempts: number;
  readonly key: Buffer | null;
  readonly eventId: string | undefined;
  readonly headers: RecordHeaders;
  readonly value: Buffer | null;
  readonly traceparent: string | undefined;
}

const maxDetail = 2_000;
const maxKey = 1_000;
/** Year 9999. Producers choose the time of a record, and neither Date nor timestamptz holds all that 64 bits can say. */
const maxTimestampMs = 253_402_300_799_999;
/** An outbox row of a .dlq topic takes 3.6 MB with its headers. */
const maxMessageBytes = 3_400_000;
const schema = 'dead-letter.v1';

/**
 * Files a record as a dead letter within the transaction and returns the message for `<topic>.dlq`; undefined when it
 * was filed before (a redelivery) or has no dead-letter topic.
 *
 * It must be able to file whatever a record can hold: one that it cannot would hold its partition for ever.
 */
export async function fileDeadLetter(
  tx: Transaction,
  letter: DeadLetter,
): Promise<OutgoingMessage | undefined> {
  const id = newId();
  const detail = storable(letter.detail.slice(0, maxDetail));
  const headers = storableHeaders(letter.headers);
  const key = letter.key === null ? null : storable(letter.key.toString('utf8'));
  const time = new Date(within(letter.timestampMs, maxTimestampMs));
  const traceparent = readableTraceparent(letter.traceparent);
  const rows = await tx.query<{ id: string | null }>(
    {
      name: 'dead_letter_put',
      text: `select messaging.dead_letter_put($1::text, $2::uuid, $3::text, $4::int, $5::bigint, $6::timestamptz, $7::text,
               $8::text, $9::text, $10::int, $11::text, $12::uuid, $13::jsonb, $14::bytea, $15::text) as id`,
    },
    [
      letter.tenant,
      id,
      letter.topic,
      letter.partition,
      letter.offset.toString(),
      time,
      letter.consumer,
      letter.reason,
      detail,
      letter.attempts,
      key,
      letter.eventId ?? null,
      JSON.stringify(headers),
      letter.value,
      traceparent ?? null,
    ],
  );
  if ((rows[0]?.id ?? null) === null || !isSourceTopic(letter.topic)) return undefined;
  const sessionId = letter.headers[headerNames.sessionId];
  return {
    topic: deadLetterTopic(letter.topic),
    key: key === null || key.length > maxKey ? letter.tenant : key,
    tenant: letter.tenant,
    eventType: 'record.dead',
    schema,
    eventId: id,
    correlationId: letter.eventId,
    sessionId: isId(sessionId) ? sessionId : undefined,
    traceparent,
    value: bounded({
      topic: letter.topic,
      partition: letter.partition,
      offset: letter.offset.toString(),
      timestamp: time.toISOString(),
      consumer: letter.consumer,
      reason: letter.reason,
      detail,
      attempts: letter.attempts,
      key_base64: letter.key?.toString('base64') ?? null,
      headers,
      value_base64: letter.value?.toString('base64') ?? null,
    }),
  };
}

/** Bytes of one sort can take six times their room as text; then the message says so, and the row alone has them. */
function bounded(value: { readonly headers: RecordHeaders; readonly [field: string]: unknown }): object {
  if (Buffer.byteLength(JSON.stringify(value)) <= maxMessageBytes) return value;
  return { ...value, key_base64: null, headers: {}, value_base64: null, omitted: true };
}

function within(ms: number, max: number): number {
  return Number.isFinite(ms) ? Math.min(Math.max(ms, 0), max) : 0;
}

function readableTraceparent(text: string | undefined): string | undefined {
  const parsed = parseTraceparent(text);
  return parsed === undefined ? undefined : formatTraceparent(parsed);
}

// Postgres' text and jsonb take neither NUL nor a lone surrogate; a dead letter must be storable whatever it holds.
function storable(text: string): string {
  return text.replaceAll('\u0000', '\uFFFD').toWellFormed();
}

function storableHeaders(headers: RecordHeaders): RecordHeaders {
  return Object.fromEntries(Object.entries(headers).map(([name, text]) => [storable(name), storable(text)]));
}
