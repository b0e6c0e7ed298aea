import { type FaultFields, readFaultOrder } from '../fault-orders.ts';

/** What goes wrong with a request, on demand. All optional; without any it is answered well and at once. */
export interface Faults {
  /** Before the answer. */
  readonly latencyMs?: number;
  /** An answer with this status, without an effect. */
  readonly status?: number;
  /** With `status`: the Retry-After header, in seconds. */
  readonly retryAfterSeconds?: number;
  /** No answer, no effect: the connection stays open. */
  readonly hang?: boolean;
  /** The connection is reset, without an effect. */
  readonly reset?: boolean;
  /** The effect takes place, and the connection is reset before the answer. */
  readonly lostAnswer?: boolean;
  /** Of a batch the memories whose text holds this are refused with 422, the others taken. */
  readonly refuse?: string;
}

/** A fault for requests of a kind, for so many of them. */
export interface FaultOrder extends Faults {
  /** Only for requests to this path. */
  readonly path?: string;
  /** Only for requests of this tenant. */
  readonly tenant?: string;
  /** Only for requests whose body contains this. */
  readonly match?: string;
  /** How often; always when left out. */
  readonly times?: number;
}

export interface AskedRequest {
  readonly path: string;
  readonly tenant: string;
  readonly body: string;
}

const fields: FaultFields = {
  texts: ['path', 'tenant', 'match', 'refuse'],
  numbers: ['latencyMs', 'status', 'retryAfterSeconds', 'times'],
  flags: ['hang', 'reset', 'lostAnswer'],
};

/** Reads an order from JSON. @throws an Error that says which field is wrong. */
export function parseFaultOrder(value: unknown): FaultOrder {
  return readFaultOrder(value, fields);
}

export function fitsRequest({ path, tenant, match }: FaultOrder, request: AskedRequest): boolean {
  return (
    (path === undefined || path === request.path) &&
    (tenant === undefined || tenant === request.tenant) &&
    (match === undefined || request.body.includes(match))
  );
}
