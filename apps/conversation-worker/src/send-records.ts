import { isDeltaEvent } from '@signalbox/contracts/conversation-outbound';
import { headerNames, type RecordHeaders } from '@signalbox/contracts/headers';
import { fault, isFault } from '@signalbox/faults/fault';
import { type DirectRecord, toRecord } from '@signalbox/messaging/outgoing';
import { currentTraceparent } from '@signalbox/telemetry/trace';
import type { Lease } from '@signalbox/work/worker';
import type { StreamRecord } from './answer-stream.ts';
import { directEvent, type TurnIdentity } from './turn-events.ts';

export interface SendingParts {
  /** Sends past the outbox; resolves when the broker has it. */
  direct(record: DirectRecord, signal: AbortSignal): Promise<unknown>;
  readonly service: string;
}

/**
 * Sends the records of a run: events with all headers, deltas with three (delivery rule 4). What the broker does not have
 * when `withdraw` aborts is withdrawn.
 */
export function recordSender(
  parts: SendingParts,
  turn: TurnIdentity,
  key: string,
  lease: Lease,
  withdraw: AbortSignal,
): (record: StreamRecord) => Promise<void> {
  const traceparent = currentTraceparent();
  return async (record) => {
    if (!lease.holds()) throw fault('LEASE_LOST', 'the lease has run out');
    const event = directEvent(turn, record);
    const headers = isDeltaEvent(record.eventType)
      ? deltaHeaders(record.eventType, event.schema, traceparent)
      : toRecord(event, traceparent, parts.service).headers;
    await parts.direct({ topic: event.topic, key, headers, value: record.value }, withdraw);
  };
}

/**
 * On a stop or a cancel what is in flight comes to its end. A lost lease withdraws it, and so does a hand-over for want of
 * the broker: it may be in the log all the same, and is of an older attempt there.
 */
export function withdrawOnLoss({ signal, holds }: Lease, withdraw: AbortController): void {
  signal.addEventListener('abort', () => {
    if (!holds() || isFault(signal.reason, 'KAFKA_UNAVAILABLE')) withdraw.abort(signal.reason);
  });
}

function deltaHeaders(eventType: string, schema: string, traceparent: string | undefined): RecordHeaders {
  const headers: RecordHeaders = { [headerNames.eventType]: eventType, [headerNames.schema]: schema };
  if (traceparent !== undefined) headers[headerNames.traceparent] = traceparent;
  return headers;
}
