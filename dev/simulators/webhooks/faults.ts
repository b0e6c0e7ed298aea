import { type FaultFields, readFaultOrder } from '../fault-orders.ts';

/** What goes wrong with a call, on demand. All optional; without any a good one is answered with 204 at once. */
export interface Faults {
  /** Before the answer. */
  readonly latencyMs?: number;
  /** An answer with this status; the call counts as not taken unless it is 2xx. */
  readonly status?: number;
  /** With `status`: the Retry-After header, in seconds. */
  readonly retryAfterSeconds?: number;
  /** With a 3xx `status`: where it points. */
  readonly location?: string;
  /** No answer: the connection stays open. */
  readonly hang?: boolean;
  /** The call is taken, and the connection is reset before the answer. */
  readonly lostAnswer?: boolean;
}

/** A fault for calls of a kind, for so many of them. */
export interface FaultOrder extends Faults {
  /** Only for calls to the hook of this tenant. */
  readonly tenant?: string;
  /** Only for calls whose body contains this. */
  readonly match?: string;
  /** How often; always when left out. */
  readonly times?: number;
}

const fields: FaultFields = {
  texts: ['tenant', 'match', 'location'],
  numbers: ['latencyMs', 'status', 'retryAfterSeconds', 'times'],
  flags: ['hang', 'lostAnswer'],
};

/** Reads an order from JSON. @throws an Error that says which field is wrong. */
export function parseFaultOrder(value: unknown): FaultOrder {
  return readFaultOrder(value, fields);
}

export function fitsCall(
  { tenant, match }: FaultOrder,
  call: { readonly tenant: string; readonly body: string },
): boolean {
  return (
    (tenant === undefined || tenant === call.tenant) && (match === undefined || call.body.includes(match))
  );
}
