import { type FaultFields, readFaultOrder } from '../fault-orders.ts';

/** What goes wrong with an answer, on demand. All optional; without any the answer comes whole and at once. */
export interface Faults {
  /** Before the first byte of the reply. */
  readonly latencyMs?: number;
  /** Before the first token, after the head of the reply. */
  readonly firstTokenMs?: number;
  /** Pace of the streamed tokens. */
  readonly tokensPerSecond?: number;
  /** An error reply with this status (429, 500, 401 …) in the API's own form. */
  readonly status?: number;
  /** With `status`: the Retry-After header, in whole seconds when it is over one. */
  readonly retryAfterMs?: number;
  /** The connection is cut after so many tokens. */
  readonly cutAfterTokens?: number;
  /** After so many tokens a chunk is no JSON; whole replies are cut in their middle. */
  readonly malformedAfterTokens?: number;
  /** The reply never comes: the connection stays open. */
  readonly hang?: boolean;
}

/** A fault for requests of a kind, for so many of them. */
export interface FaultOrder extends Faults {
  /** Only for requests whose last user message contains this. */
  readonly match?: string;
  /** How often; always when left out. */
  readonly times?: number;
}

const fields: FaultFields = {
  texts: ['match'],
  numbers: [
    'latencyMs',
    'firstTokenMs',
    'tokensPerSecond',
    'status',
    'retryAfterMs',
    'cutAfterTokens',
    'malformedAfterTokens',
    'times',
  ],
  flags: ['hang'],
};

/** Reads an order from JSON. @throws an Error that says which field is wrong. */
export function parseFaultOrder(value: unknown): FaultOrder {
  return readFaultOrder(value, fields);
}

/** Reads the header's form: `status=429, retryAfterMs=1000` or `hang=true`. @throws like parseFaultOrder. */
export function parseFaultHeader(header: string): FaultOrder {
  const entries = header.split(',').map((pair) => {
    const [name = '', value = ''] = pair.split('=').map((each) => each.trim());
    return [name, value === 'true' ? true : /^[\d.]+$/.test(value) ? Number(value) : value];
  });
  return parseFaultOrder(Object.fromEntries(entries));
}

export function fitsMessage({ match = '' }: FaultOrder, lastUserMessage: string): boolean {
  return lastUserMessage.includes(match);
}
