import { headerNames, type RecordHeaders } from '@signalbox/contracts/headers';
import { isId } from '@signalbox/contracts/ids';
import { isTenant, parseKey, type RecordKey } from '@signalbox/contracts/keys';
import { type SourceTopicName, topics } from '@signalbox/contracts/topics';
import { validateValue } from '@signalbox/contracts/validate';
import { isFault } from '@signalbox/faults/fault';
import { parseTraceparent } from '@signalbox/telemetry/trace';
import { decodeContent } from './codec.ts';
import { type DeadLetterReason, unknownTenant } from './dead-letters.ts';
import { whyNotKeepable } from './keepable-value.ts';

/** A record as the client library hands it over. */
export interface RawRecord {
  readonly offset: bigint;
  readonly key: Buffer | null;
  readonly value: Buffer | null;
  readonly headers: Readonly<Record<string, Buffer | string | (Buffer | string | null)[] | null | undefined>>;
  readonly timestampMs: number;
}

/** A record whose key, headers and value were checked. */
export interface IntakeRecord {
  readonly topic: SourceTopicName;
  readonly partition: number;
  readonly offset: bigint;
  readonly key: string;
  readonly tenant: string;
  /** What stands behind the tenant in the key: the session, or the name in tool.catalog. */
  readonly keyId: string;
  /** Empty where the topic is not keyed by session. */
  readonly sessionId: string;
  /** Empty for deltas and thinking, which carry three headers only (delivery rule 4). */
  readonly eventId: string;
  readonly eventType: string;
  readonly schema: string;
  readonly headers: RecordHeaders;
  /** Checked against the schema; null is a tombstone. */
  readonly value: unknown;
  readonly bytes: Buffer | null;
  readonly timestampMs: number;
  /** The context to continue: that of this record's consumer span. */
  readonly traceparent: string | undefined;
}

export interface Poison {
  readonly tenant: string;
  readonly reason: DeadLetterReason;
  readonly detail: string;
  readonly eventId: string | undefined;
  readonly headers: RecordHeaders;
}

export type Decoded =
  | { readonly kind: 'record'; readonly record: IntakeRecord }
  | { readonly kind: 'skipped' }
  | { readonly kind: 'poison'; readonly poison: Poison };

/** What `accepts` sees: before the value is looked at, so a skipped record costs nothing. */
export type RecordHead = Pick<
  IntakeRecord,
  'key' | 'tenant' | 'eventType' | 'headers' | 'partition' | 'offset'
>;

const lightEvents: ReadonlySet<string> = new Set(['assistant.delta', 'assistant.thinking']);
const ownHeaders: ReadonlySet<string> = new Set(Object.values(headerNames));
const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * Checks a record: key, headers against the key, value against its schema. Total: never throws. The tenant is what key
 * and header agree on; a record whose two differ is poison, whoever of them is right.
 */
export function decodeRecord(
  topic: SourceTopicName,
  partition: number,
  raw: RawRecord,
  accepts: ((head: RecordHead) => boolean) | undefined,
): Decoded {
  const headers = textHeaders(raw.headers);
  const keyText = raw.key?.toString('utf8') ?? '';
  const key = parseKey(keyText);
  const eventId = headers[headerNames.eventId];
  const poison = (reason: DeadLetterReason, detail: string): Decoded => ({
    kind: 'poison',
    poison: {
      tenant: ownerOf(key, headers),
      reason,
      detail,
      eventId: isId(eventId) ? eventId : undefined,
      headers,
    },
  });
  try {
    if (key === undefined) return poison('bad_key', 'the key is not tenant:id');
    const bySession = topics[topic].key === 'tenant:session';
    if (bySession && !isId(key.id)) return poison('bad_key', 'the session in the key is not a UUID');
    const eventType = headers[headerNames.eventType] ?? '';
    const schema = headers[headerNames.schema] ?? '';
    const mismatch = headerMistake(
      headers,
      key.tenant,
      bySession ? key.id : undefined,
      lightEvents.has(eventType),
    );
    if (mismatch !== undefined) return poison('bad_headers', mismatch);
    if (
      accepts !== undefined &&
      !accepts({ key: keyText, tenant: key.tenant, eventType, headers, partition, offset: raw.offset })
    ) {
      return { kind: 'skipped' };
    }
    const bytes = decodeContent(topic, headers, raw.value);
    const checked = checkedValue(topic, eventType, schema, bytes);
    if ('reason' in checked) return poison(checked.reason, checked.detail);
    if (bySession && sessionIn(checked.value, key.id) !== key.id) {
      return poison('schema', '/session_id is not the session of the key');
    }
    return {
      kind: 'record',
      record: {
        topic,
        partition,
        offset: raw.offset,
        key: keyText,
        tenant: key.tenant,
        keyId: key.id,
        sessionId: bySession ? key.id : '',
        eventId: eventId ?? '',
        eventType,
        schema,
        headers,
        value: checked.value,
        bytes,
        timestampMs: raw.timestampMs,
        traceparent: traceparentIn(headers),
      },
    };
  } catch (error) {
    // decodeContent says POISON_RECORD; whatever else throws here depends on the bytes alone, so it is poison too.
    return poison(
      isFault(error) ? 'content' : 'schema',
      error instanceof Error ? error.message : String(error),
    );
  }
}

/** Whose poison it is. Where key and header name two tenants it is nobody's: one would be shown what the other wrote. */
function ownerOf(key: RecordKey | undefined, headers: RecordHeaders): string {
  const named = headers[headerNames.tenantId];
  const owner = key?.tenant ?? named;
  const disputed = isTenant(named) && named !== owner;
  return isTenant(owner) && !disputed ? owner : unknownTenant;
}

/** What is wrong with the headers, or undefined. Deltas have neither tenant, session nor event id; the key has to do. */
function headerMistake(
  headers: RecordHeaders,
  tenant: string,
  sessionId: string | undefined,
  light: boolean,
): string | undefined {
  const named = headers[headerNames.tenantId];
  if (named !== tenant && !(light && named === undefined)) return 'tenant_id is not the tenant of the key';
  const session = headers[headerNames.sessionId];
  if (sessionId !== undefined && session !== undefined && session !== sessionId) {
    return 'session_id is not the session of the key';
  }
  const eventId = headers[headerNames.eventId];
  if (!isId(eventId) && !(light && eventId === undefined)) return 'event_id is not a UUID';
  for (const name in headers) {
    // These go into rows and on to other records, and Postgres' text takes no NUL. Headers of others are only passed by.
    if (headers[name]?.includes('\u0000') && ownHeaders.has(name)) return `${name} holds NUL`;
  }
  return undefined;
}

/** The session that a value names; the one expected where it names none. */
function sessionIn(value: unknown, expected: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, 'session_id')
    ? Reflect.get(value, 'session_id')
    : expected;
}

type CheckedValue =
  | { readonly value: unknown }
  | { readonly reason: DeadLetterReason; readonly detail: string };

function checkedValue(
  topic: SourceTopicName,
  eventType: string,
  schema: string,
  bytes: Buffer | null,
): CheckedValue {
  if (bytes === null) {
    return topics[topic].compacted
      ? { value: null }
      : { reason: 'not_json', detail: 'the record has no value' };
  }
  let value: unknown;
  try {
    value = JSON.parse(utf8.decode(bytes));
  } catch (error) {
    return { reason: 'not_json', detail: error instanceof Error ? error.message : 'not JSON' };
  }
  const unkeepable = whyNotKeepable(value, bytes);
  if (unkeepable !== undefined) return { reason: 'schema', detail: unkeepable };
  const check = validateValue(topic, eventType, schema, value);
  if (check.ok) return { value: check.value };
  return {
    reason: 'schema',
    detail: check.errors.map(({ path, message }) => `${path} ${message}`.trim()).join('; '),
  };
}

/** The `traceparent` of a record. One that cannot be read is none: a new trace begins, and nobody passes on what it holds. */
export function traceparentIn(headers: RecordHeaders): string | undefined {
  const text = headers[headerNames.traceparent];
  return parseTraceparent(text) === undefined ? undefined : text;
}

/** Headers as text. Of a header that comes twice the first counts; bytes that are not UTF-8 become replacement characters. */
export function textHeaders(headers: RawRecord['headers']): RecordHeaders {
  const text: [string, string][] = [];
  for (const [name, given] of Object.entries(headers)) {
    const value = Array.isArray(given) ? given[0] : given;
    if (value !== undefined && value !== null)
      text.push([name, typeof value === 'string' ? value : value.toString('utf8')]);
  }
  return Object.fromEntries(text); // defines, where an assignment to `__proto__` would be lost
}
