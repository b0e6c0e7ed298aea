import { fault } from '@signalbox/faults/fault';

/** A handler throws this to say that one record of its batch is poison and the others are not touched. */
export function poisonRecord(offset: bigint, why: string): Error {
  return fault('POISON_RECORD', why, { details: { offset } });
}
