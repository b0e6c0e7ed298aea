import { isFault } from '@signalbox/faults/fault';

/** What a failed send means: try the same records again, or find the record that the broker will never take. */
export type SendVerdict = 'retry' | 'refused';

// Errors about the records themselves: no later try can succeed. By code, for kafkajs 2.2.4 knows no names above 81.
const refusedCodes: ReadonlyMap<number, string> = new Map([
  [10, 'MESSAGE_TOO_LARGE: over the max.message.bytes of the topic, alone or with its neighbours'],
  [17, 'INVALID_TOPIC_EXCEPTION: no topic can have this name'],
  [18, 'RECORD_LIST_TOO_LARGE: over the segment size of the topic'],
  [32, 'INVALID_TIMESTAMP: too far from the broker clock for the topic'],
  [43, 'UNSUPPORTED_FOR_MESSAGE_FORMAT'],
  [44, 'POLICY_VIOLATION: a rule of the broker for this record'],
  [76, 'UNSUPPORTED_COMPRESSION_TYPE'],
  [87, 'INVALID_RECORD: a compacted topic refuses a record without key'],
]);

/**
 * Pure and total: every thrown value gets a verdict, and the unknown is retried. Missing topics, missing rights, lost
 * connections, timeouts and missing leaders all end by themselves or by an operator; dead-lettering for them would lose
 * order for nothing. So does a TypeError or RangeError of the client: it was about a record only if that could not be
 * encoded, which the producer finds out before, and a client that stumbles over a broker's answer would have whole batches
 * put aside that the log holds. A row that waits too long is given up by the outbox, a direct record by its caller.
 */
export function judgeSend(error: unknown): SendVerdict {
  for (const each of causes(error)) {
    if (isFault(each, 'RECORD_REFUSED')) return 'refused';
    const code = codeOf(each);
    if (code !== undefined) return refusedCodes.has(code) ? 'refused' : 'retry';
    if (nameOf(each) === 'KafkaJSInvariantViolation') return 'retry'; // a defect of the client, not of the record
    if (/^Invalid (message without value|messages array|topic)/.test(messageOf(each))) return 'refused';
  }
  return 'retry';
}

/** The reason a record was refused for, for its dead letter. */
export function refusalReason(error: unknown): string {
  for (const each of causes(error)) {
    const code = codeOf(each);
    if (code !== undefined) return refusedCodes.get(code) ?? `Kafka error ${code}`;
  }
  return messageOf(error);
}

/** The error and what it was caused by, outermost first; bounded, for a cause may point back. */
function* causes(error: unknown): Generator<unknown> {
  let each: unknown = error;
  for (let depth = 0; depth < 8 && each !== undefined && each !== null; depth += 1) {
    yield each;
    each = typeof each === 'object' && 'cause' in each ? each.cause : undefined;
  }
}

// kafkajs wraps a protocol error in others that lose its code, and keeps it as the cause.
function codeOf(error: unknown): number | undefined {
  return typeof error === 'object' &&
    error !== null &&
    'code' in error &&
    typeof error.code === 'number' &&
    'type' in error
    ? error.code
    : undefined;
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : '';
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
