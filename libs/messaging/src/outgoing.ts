import { headerNames, type RecordHeaders } from '@signalbox/contracts/headers';
import type { TopicName } from '@signalbox/contracts/topics';
import { encodeContent } from './codec.ts';

/** A message to send through the outbox. A handler returns these; it never publishes by itself. */
export interface OutgoingMessage {
  readonly topic: TopicName;
  readonly key: string;
  readonly tenant: string;
  readonly eventType: string;
  /** Name and version, `conversation.inbound.v1`. */
  readonly schema: string;
  /** UUID: what the receiver's inbox knows the message by. */
  readonly eventId: string;
  readonly sessionId?: string | undefined;
  readonly correlationId?: string | undefined;
  readonly replyTo?: string | undefined;
  readonly replyPartition?: number | undefined;
  readonly requestId?: string | undefined;
  readonly replayOf?: string | undefined;
  /** The trace to continue; the active span's when it is left out. */
  readonly traceparent?: string | undefined;
  /** Null is a tombstone of a compacted topic. */
  readonly value: object | null;
}

/** A record that goes past the outbox: token deltas (delivery rules 4, 19). Headers as they are to stand on the wire. */
export interface DirectRecord {
  readonly topic: TopicName;
  readonly key: string;
  /** Where it goes, whatever its key says: an answer, to the partition that the asking instance owns (delivery rule 23). */
  readonly partition?: number | undefined;
  readonly headers: RecordHeaders;
  readonly value: object | Buffer;
}

/** Topic, key, headers and bytes of one record; its key decides the partition, unless it says one. */
export interface PlainRecord {
  readonly topic: TopicName;
  readonly key: string;
  readonly partition?: number | undefined;
  readonly headers: RecordHeaders;
  readonly value: Buffer | null;
}

/** Where the broker has put a record. */
export interface Receipt {
  readonly partition: number;
  readonly offset: bigint;
}

/** The record of a message: its headers (the CloudEvents set among them) and the encoded value. */
export function toRecord(
  message: OutgoingMessage,
  traceparent: string | undefined,
  source = 'signalbox',
): PlainRecord {
  const headers = messageHeaders(message, traceparent, source);
  return { topic: message.topic, key: message.key, headers, value: toBytes(message.topic, message.value) };
}

/** The headers of a message's record, the CloudEvents set among them. */
export function messageHeaders(
  message: Omit<OutgoingMessage, 'value'>,
  traceparent: string | undefined,
  source: string,
): RecordHeaders {
  const now = new Date().toISOString();
  const headers: RecordHeaders = {};
  setTraceparent(headers, message.traceparent ?? traceparent);
  set(headers, headerNames.requestId, message.requestId);
  headers[headerNames.tenantId] = message.tenant;
  set(headers, headerNames.sessionId, message.sessionId);
  headers[headerNames.eventId] = message.eventId;
  headers[headerNames.eventType] = message.eventType;
  headers[headerNames.schema] = message.schema;
  set(headers, headerNames.correlationId, message.correlationId);
  set(headers, headerNames.replyTo, message.replyTo);
  set(headers, headerNames.replyPartition, message.replyPartition?.toString());
  set(headers, headerNames.replayOf, message.replayOf);
  headers[headerNames.occurredAt] = now;
  headers[headerNames.ceId] = message.eventId;
  headers[headerNames.ceSource] = source;
  headers[headerNames.ceType] = message.eventType;
  headers[headerNames.ceSpecversion] = '1.0';
  headers[headerNames.ceTime] = now;
  return headers;
}

/** The bytes of a direct record. Its headers are left alone. */
export function toDirectRecord(record: DirectRecord): PlainRecord {
  return {
    topic: record.topic,
    key: record.key,
    partition: record.partition,
    headers: record.headers,
    value: toBytes(record.topic, record.value),
  };
}

/** Puts the trace context into headers: `traceparent`, and its two ids under their own names. */
export function setTraceparent(headers: RecordHeaders, traceparent: string | undefined): void {
  if (traceparent === undefined) return;
  headers[headerNames.traceparent] = traceparent;
  const [, traceId, spanId] = traceparent.split('-');
  set(headers, headerNames.traceId, traceId);
  set(headers, headerNames.spanId, spanId);
}

function set(headers: RecordHeaders, name: string, value: string | undefined): void {
  if (value !== undefined) headers[name] = value;
}

function toBytes(topic: TopicName, value: object | Buffer | null): Buffer | null {
  if (value === null) return encodeContent(topic, null);
  return encodeContent(topic, Buffer.isBuffer(value) ? value : Buffer.from(JSON.stringify(value), 'utf8'));
}
