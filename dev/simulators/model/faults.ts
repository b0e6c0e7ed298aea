import { asText, isFields } from './conversation.ts';

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

const numbers = [
  'latencyMs',
  'firstTokenMs',
  'tokensPerSecond',
  'status',
  'retryAfterMs',
  'cutAfterTokens',
  'malformedAfterTokens',
  'times',
] as const;

/** Reads an order from JSON. @throws an Error that says which field is wrong. */
export function parseFaultOrder(value: unknown): FaultOrder {
  if (!isFields(value)) throw new Error('a fault is an object');
  const order: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(value)) {
    if (name === 'match' && typeof field === 'string') order[name] = field;
    else if (name === 'hang' && typeof field === 'boolean') order[name] = field;
    else if (numbers.some((each) => each === name) && typeof field === 'number' && field >= 0)
      order[name] = field;
    else throw new Error(`no such fault, or a wrong value: ${name}=${JSON.stringify(field)}`);
  }
  return order;
}

/** Reads the header's form: `status=429, retryAfterMs=1000` or `hang=true`. @throws like parseFaultOrder. */
export function parseFaultHeader(header: string): FaultOrder {
  const entries = header.split(',').map((pair) => {
    const [name = '', value = ''] = pair.split('=').map((each) => each.trim());
    return [name, value === 'true' ? true : /^[\d.]+$/.test(value) ? Number(value) : value];
  });
  return parseFaultOrder(Object.fromEntries(entries));
}

/** The orders in force; the first that matches a request is used, and used up. */
export function createFaultBook(): {
  set(orders: readonly FaultOrder[]): void;
  list(): readonly FaultOrder[];
  take(lastUserMessage: string): Faults;
} {
  let orders: FaultOrder[] = [];
  return {
    set: (next) => {
      orders = [...next];
    },
    list: () => orders,
    take(lastUserMessage) {
      const found = orders.find(({ match, times }) => times !== 0 && lastUserMessage.includes(asText(match)));
      if (found?.times !== undefined) {
        const used = { ...found, times: found.times - 1 };
        orders = orders.map((each) => (each === found ? used : each)).filter((each) => each.times !== 0);
      }
      return found ?? {};
    },
  };
}
