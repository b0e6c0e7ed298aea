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

const texts: ReadonlySet<string> = new Set(['path', 'tenant', 'match', 'refuse']);
const numbers: ReadonlySet<string> = new Set(['latencyMs', 'status', 'retryAfterSeconds', 'times']);
const flags: ReadonlySet<string> = new Set(['hang', 'reset', 'lostAnswer']);

/** Reads an order from JSON. @throws an Error that says which field is wrong. */
export function parseFaultOrder(value: unknown): FaultOrder {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error('a fault is an object');
  }
  for (const [name, field] of Object.entries(value)) {
    const known =
      (texts.has(name) && typeof field === 'string') ||
      (flags.has(name) && typeof field === 'boolean') ||
      (numbers.has(name) && typeof field === 'number' && field >= 0);
    if (!known) throw new Error(`no such fault, or a wrong value: ${name}=${JSON.stringify(field)}`);
  }
  return value;
}

/** The orders in force; the first that fits a request is used, and used up. */
export function createFaultBook(): {
  set(orders: readonly FaultOrder[]): void;
  list(): readonly FaultOrder[];
  take(request: AskedRequest): Faults;
} {
  let orders: readonly FaultOrder[] = [];
  return {
    set: (next) => {
      orders = [...next];
    },
    list: () => orders,
    take(request) {
      const found = orders.find(
        ({ path, tenant, match, times }) =>
          times !== 0 &&
          (path === undefined || path === request.path) &&
          (tenant === undefined || tenant === request.tenant) &&
          (match === undefined || request.body.includes(match)),
      );
      if (found?.times !== undefined) {
        const used = { ...found, times: found.times - 1 };
        orders = orders.map((each) => (each === found ? used : each)).filter(({ times }) => times !== 0);
      }
      return found ?? {};
    },
  };
}
