import { headerNames } from '@signalbox/contracts/headers';
import { isId } from '@signalbox/contracts/ids';
import { type SourceTopicName, topics } from '@signalbox/contracts/topics';
import { currentTraceparent } from '@signalbox/telemetry/trace';
import type { RecordHead } from './decode-record.ts';
import type { Messaging } from './messaging.ts';
import { messageHeaders, type OutgoingMessage } from './outgoing.ts';
import { startPublishSpan } from './publish-span.ts';

/** Whom an answer is for (delivery rule 23). */
export interface ReplyAddress {
  readonly service: string;
  readonly partition: number;
  readonly correlationId: string;
}

/** The address that a question carries; undefined when it names none that an answer could reach. */
export function replyAddress(
  { headers }: Pick<RecordHead, 'headers'>,
  results: SourceTopicName,
): ReplyAddress | undefined {
  const service = headers[headerNames.replyTo];
  const correlationId = headers[headerNames.correlationId];
  const named = headers[headerNames.replyPartition] ?? '';
  const partition = /^\d{1,5}$/.test(named) ? Number(named) : -1;
  return service !== undefined &&
    isId(correlationId) &&
    partition >= 0 &&
    partition < topics[results].partitions
    ? { service, partition, correlationId }
    : undefined;
}

/** When nobody waits any more for the answer to a question, as its value says it (epoch milliseconds). */
export function deadlineOf(value: unknown): number | undefined {
  const at =
    typeof value === 'object' &&
    value !== null &&
    'deadline_at' in value &&
    typeof value.deadline_at === 'string'
      ? Date.parse(value.deadline_at)
      : Number.NaN;
  return Number.isNaN(at) ? undefined : at;
}

export interface SendNow {
  readonly messaging: Pick<Messaging, 'producer'>;
  readonly service: string;
  readonly message: OutgoingMessage & { readonly value: object };
  /** Where it goes; its key decides if left out. */
  readonly partition?: number;
  /** The trace to continue. */
  readonly signal: AbortSignal;
}

/** Sends a message past the outbox, in a span of its own below the active one. Faults: as `producer.direct`. */
export async function sendNow({ messaging, service, message, partition, signal }: SendNow): Promise<void> {
  const { topic, key, value } = message;
  const span = startPublishSpan('direct', topic, messageHeaders(message, currentTraceparent(), service));
  try {
    await messaging.producer.direct({ topic, key, partition, headers: span.headers, value }, signal);
    span.end();
  } catch (error) {
    span.end(error);
    throw error;
  }
}
