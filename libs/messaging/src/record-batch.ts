import { headerNames } from '@signalbox/contracts/headers';
import { isTenant, parseKey } from '@signalbox/contracts/keys';
import type { SourceTopicName } from '@signalbox/contracts/topics';
import type { Span } from '@signalbox/telemetry/trace';
import { attribute, failSpan, startSpan, traceparentOf } from '@signalbox/telemetry/trace';
import type { DeadLetter, DeadLetterReason } from './dead-letters.ts';
import { unknownTenant } from './dead-letters.ts';
import {
  decodeRecord,
  type IntakeRecord,
  type Poison,
  type RawRecord,
  type RecordHead,
  textHeaders,
  traceparentIn,
} from './decode-record.ts';

/** One record on its way through the runner. */
export interface Item {
  readonly partition: number;
  readonly raw: RawRecord;
  readonly content:
    | { readonly kind: 'record'; readonly record: IntakeRecord }
    | { readonly kind: 'poison'; readonly poison: Poison }
    | { readonly kind: 'skipped' };
  readonly span: Span | undefined;
  attempts: number;
}

/** Events that are too many for a span each: deltas belong to the span of the turn that made them. */
const spanless: ReadonlySet<string> = new Set(['assistant.delta', 'assistant.thinking']);

/** Trace, then validation: the first two steps of the runner, for one record. */
export function toItem(
  topic: SourceTopicName,
  partition: number,
  raw: RawRecord,
  accepts: ((head: RecordHead) => boolean) | undefined,
): Item {
  const decoded = decodeRecord(topic, partition, raw, accepts);
  if (decoded.kind === 'skipped') return { partition, raw, content: decoded, span: undefined, attempts: 0 };
  if (decoded.kind === 'poison') {
    const { headers, eventId } = decoded.poison;
    const span = consumerSpan(topic, partition, raw.offset, headers[headerNames.traceparent], {
      [attribute.eventId]: eventId,
    });
    return { partition, raw, content: decoded, span, attempts: 0 };
  }
  const { record } = decoded;
  if (spanless.has(record.eventType))
    return { partition, raw, content: decoded, span: undefined, attempts: 0 };
  const span = consumerSpan(topic, partition, raw.offset, record.traceparent, {
    [attribute.eventId]: record.eventId,
    [attribute.tenantId]: record.tenant,
    [attribute.sessionId]: record.sessionId,
    'signalbox.event_type': record.eventType,
  });
  const traced = { ...record, traceparent: traceparentOf(span) ?? record.traceparent };
  return { partition, raw, content: { kind: 'record', record: traced }, span, attempts: 0 };
}

export function endSpan(item: Item, error?: unknown): void {
  if (item.span === undefined) return;
  if (error !== undefined) failSpan(item.span, error);
  item.span.end();
}

function consumerSpan(
  topic: SourceTopicName,
  partition: number,
  offset: bigint,
  parent: string | undefined,
  attributes: Record<string, string | undefined>,
): Span {
  const known = Object.fromEntries(
    Object.entries(attributes).filter(([, value]) => value !== undefined && value !== ''),
  );
  return startSpan(`process ${topic}`, {
    kind: 'consumer',
    parent,
    attributes: {
      'messaging.system': 'kafka',
      'messaging.destination.name': topic,
      'messaging.destination.partition.id': String(partition),
      'messaging.kafka.offset': Number(offset),
      ...known,
    },
  });
}

/** The dead letter of an item, with the reason of its decoding or of its handler. */
export function deadLetterOf(
  topic: SourceTopicName,
  consumer: string,
  item: Item,
  error: unknown,
): DeadLetter {
  const { raw, content, partition } = item;
  const headers = content.kind === 'poison' ? content.poison.headers : textHeaders(raw.headers);
  const tenant =
    content.kind === 'poison' ? content.poison.tenant : parseKey(raw.key?.toString('utf8') ?? '')?.tenant;
  return {
    tenant: tenant !== undefined && (isTenant(tenant) || tenant === unknownTenant) ? tenant : unknownTenant,
    topic,
    partition,
    offset: raw.offset,
    timestampMs: raw.timestampMs,
    consumer,
    ...why(content, error),
    attempts: Math.max(item.attempts, 1),
    key: raw.key,
    eventId: content.kind === 'record' ? content.record.eventId || undefined : eventIdOf(content),
    headers,
    value: raw.value,
    traceparent: (item.span === undefined ? undefined : traceparentOf(item.span)) ?? traceparentIn(headers),
  };
}

function why(content: Item['content'], error: unknown): { reason: DeadLetterReason; detail: string } {
  if (content.kind === 'poison') return content.poison;
  const declared = isDeclaration(error);
  return { reason: declared ? 'declared' : 'handler', detail: chain(error) };
}

function isDeclaration(error: unknown): boolean {
  return typeof error === 'object' && error !== null && 'code' in error && error.code === 'POISON_RECORD';
}

function eventIdOf(content: Item['content']): string | undefined {
  return content.kind === 'poison' ? content.poison.eventId : undefined;
}

/** The messages of an error and its causes. */
function chain(error: unknown): string {
  const parts: string[] = [];
  for (
    let each: unknown = error, depth = 0;
    each instanceof Error && depth < 5;
    each = each.cause, depth += 1
  ) {
    parts.push(`${each.name}: ${each.message}`);
  }
  return parts.length > 0 ? parts.join(' ← ') : String(error);
}
