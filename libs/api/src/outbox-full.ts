import { type Fault, fault } from '@signalbox/faults/fault';

/** The refusal of whatever would add a row to an outbox that is over its bound (delivery rule 8). */
export function outboxFull(): Fault {
  return fault('OUTBOX_FULL', 'too many messages wait for the broker', { retryAfterMs: 1000 });
}
