import { isDeltaEvent } from '@signalbox/contracts/conversation-outbound';
import { headerNames, type RecordHeaders } from '@signalbox/contracts/headers';
import { isTenant, parseKey, type RecordKey } from '@signalbox/contracts/keys';
import { topicEvents } from '@signalbox/contracts/topic-events';
import { isSourceTopic, topics } from '@signalbox/contracts/topics';
import { validateValue } from '@signalbox/contracts/validate';
import { type Fault, fault } from '@signalbox/faults/fault';
import { encodeContent } from './codec.ts';
import type { StoredDeadLetter } from './dead-letter-store.ts';
import { decodeRecord } from './decode-record.ts';
import type { OutboxRecord } from './outbox-sql.ts';
import { setTraceparent } from './outgoing.ts';

/** What is put right in a record before it goes out again; what is left out stays as it was. */
export interface Correction {
  /** The whole new value, checked against the topic's schema. */
  readonly value?: object | undefined;
  readonly eventType?: string | undefined;
  /** `tenant:id`, for a record whose own key cannot be read. Of another tenant only where it is filed under nobody. */
  readonly key?: string | undefined;
}

export interface ReplayIds {
  readonly eventId: string;
  readonly traceparent: string | undefined;
  /** The service that replays, for `ce_source`. */
  readonly source: string;
}

/** Said anew for each replay, or told by the key: what stood there is not taken over. */
const renewed: ReadonlySet<string> = new Set([
  headerNames.traceparent,
  headerNames.tracestate,
  headerNames.traceId,
  headerNames.spanId,
  headerNames.tenantId,
  headerNames.sessionId,
  headerNames.eventId,
  headerNames.replayOf,
  headerNames.occurredAt,
  headerNames.ceId,
  headerNames.ceSource,
  headerNames.ceType,
  headerNames.ceSpecversion,
  headerNames.ceTime,
]);

/** What a row of the outbox takes, value and headers (its CHECK in 0010_outbox.sql). */
const maxRowBytes = { source: 900_000, deadLetter: 3_600_000 };

/**
 * The record that a dead letter goes out as: under its key, with its bytes or the corrected value, as a new event. Pure.
 * Faults: CONFLICT for a piece of text, VALIDATION_ERROR with the places of a correction or key that cannot be taken,
 * BODY_TOO_LARGE for what the outbox does not hold.
 */
export function replayRecord(letter: StoredDeadLetter, correction: Correction, ids: ReplayIds): OutboxRecord {
  const { topic } = letter;
  const key = keyOf(letter, correction);
  const given = letter.headers[headerNames.eventType];
  if (given !== undefined && isDeltaEvent(given)) {
    throw fault('CONFLICT', 'a piece of text is not replayed: the final of its turn has the whole');
  }
  const headers: RecordHeaders = Object.fromEntries(
    Object.entries(letter.headers).filter(([name]) => !renewed.has(name)),
  );
  let { value } = letter;
  if (correction.value !== undefined || correction.eventType !== undefined) {
    const correct = correctedValue(letter, correction, key);
    headers[headerNames.eventType] = correct.eventType;
    headers[headerNames.schema] = correct.schema;
    if (correction.value !== undefined) {
      delete headers[headerNames.keyId]; // named the key of the bytes that are gone
      value = encodeContent(topic, Buffer.from(JSON.stringify(correction.value), 'utf8'));
    }
  }
  const now = new Date().toISOString();
  setTraceparent(headers, ids.traceparent);
  headers[headerNames.tenantId] = key.tenant;
  if (topics[topic].key === 'tenant:session') headers[headerNames.sessionId] = key.id;
  headers[headerNames.eventId] = ids.eventId;
  headers[headerNames.replayOf] = letter.eventId ?? letter.id;
  headers[headerNames.occurredAt] = now;
  headers[headerNames.ceId] = ids.eventId;
  headers[headerNames.ceSource] = ids.source;
  headers[headerNames.ceType] = headers[headerNames.eventType] ?? '';
  headers[headerNames.ceSpecversion] = '1.0';
  headers[headerNames.ceTime] = now;
  refuseTooLarge(topic, headers, value);
  const record = {
    ...{ tenant: key.tenant, topic, key: `${key.tenant}:${key.id}` },
    ...{ eventId: ids.eventId, headers, value },
  };
  if (Object.keys(correction).length > 0) refusePoison(record);
  return record;
}

function keyOf(letter: StoredDeadLetter, correction: Correction): RecordKey {
  const known = isTenant(letter.tenant);
  // Under nobody are records whose key and headers name different tenants, too: which of them is right a person says.
  const text = correction.key ?? (known ? letter.key : undefined);
  const key = parseKey(text ?? '');
  if (key === undefined) {
    throw invalid(
      '/key',
      'the record has no key of the form tenant:id that could be trusted; it must be given',
    );
  }
  if (known && key.tenant !== letter.tenant) throw invalid('/key', 'names another tenant');
  return key;
}

function correctedValue(letter: StoredDeadLetter, correction: Correction, key: RecordKey) {
  const { topic } = letter;
  if (!isSourceTopic(topic))
    throw invalid('/value', `records of ${topic} have no schema to check them against`);
  const { schema, events, ...more } = topicEvents[topic];
  const eventType = correction.eventType ?? letter.headers[headerNames.eventType] ?? '';
  if (!Object.hasOwn(events, eventType) && !('unknownEvent' in more)) {
    throw invalid('/event_type', `${JSON.stringify(eventType)} is not an event of ${topic}`);
  }
  const value: unknown = correction.value ?? storedValue(letter);
  const check = validateValue(topic, eventType, schema, value);
  if (!check.ok) {
    throw fault('VALIDATION_ERROR', `the value does not fit ${schema}`, {
      errors: check.errors.map(({ path, message }) => ({ path: `/value${path}`, message })),
    });
  }
  const bySession = topics[topic].key === 'tenant:session';
  if (bySession && typeof value === 'object' && value !== null && 'session_id' in value) {
    if (value.session_id !== key.id) throw invalid('/value/session_id', 'must be the session of the key');
  }
  return { eventType, schema };
}

/** Who corrects a record means it to be handled. What only its consumers would find is told here and now. */
function refusePoison({ topic, key, headers, value }: OutboxRecord): void {
  if (!isSourceTopic(topic)) return;
  const raw = { offset: 0n, key: Buffer.from(key), value, headers, timestampMs: 0 };
  const decoded = decodeRecord(topic, 0, raw, undefined);
  if (decoded.kind === 'poison') {
    const { reason, detail } = decoded.poison;
    throw invalid(reason === 'bad_key' ? '/key' : '/value', detail);
  }
}

function storedValue(letter: StoredDeadLetter): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(letter.value ?? new Uint8Array()));
  } catch {
    throw invalid('/value', 'the stored value is not JSON; a new one must be given');
  }
}

function refuseTooLarge(
  topic: StoredDeadLetter['topic'],
  headers: RecordHeaders,
  value: Buffer | null,
): void {
  // As jsonb writes it: a blank after each colon and comma.
  const blanks = 2 * Object.keys(headers).length - 1;
  const bytes = (value?.length ?? 0) + Buffer.byteLength(JSON.stringify(headers)) + blanks;
  const max = isSourceTopic(topic) ? maxRowBytes.source : maxRowBytes.deadLetter;
  if (bytes > max)
    throw fault('BODY_TOO_LARGE', `value and headers have ${bytes} bytes, the outbox takes ${max}`);
}

function invalid(path: string, message: string): Fault {
  return fault('VALIDATION_ERROR', 'the record cannot be replayed like this', {
    errors: [{ path, message }],
  });
}
