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

const texts: ReadonlySet<string> = new Set(['tenant', 'match', 'location']);
const numbers: ReadonlySet<string> = new Set(['latencyMs', 'status', 'retryAfterSeconds', 'times']);
const flags: ReadonlySet<string> = new Set(['hang', 'lostAnswer']);

/** Reads an order from JSON. @throws an Error that says which field is wrong. */
export function parseFaultOrder(value: unknown): FaultOrder {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error('a fault is an object');
  for (const [name, field] of Object.entries(value)) {
    const known =
      (texts.has(name) && typeof field === 'string') ||
      (flags.has(name) && typeof field === 'boolean') ||
      (numbers.has(name) && typeof field === 'number' && field >= 0);
    if (!known) throw new Error(`no such fault, or a wrong value: ${name}=${JSON.stringify(field)}`);
  }
  return value;
}

/** The orders in force; the first that fits a call is used, and used up. */
export function createFaultBook() {
  let orders: readonly FaultOrder[] = [];
  return {
    set(next: readonly FaultOrder[]): void {
      orders = [...next];
    },
    list: (): readonly FaultOrder[] => orders,
    take(call: { readonly tenant: string; readonly body: string }): Faults {
      const found = orders.find(
        ({ tenant, match, times }) =>
          times !== 0 &&
          (tenant === undefined || tenant === call.tenant) &&
          (match === undefined || call.body.includes(match)),
      );
      if (found?.times !== undefined) {
        const used = { ...found, times: found.times - 1 };
        orders = orders.map((each) => (each === found ? used : each)).filter(({ times }) => times !== 0);
      }
      return found ?? {};
    },
  };
}
