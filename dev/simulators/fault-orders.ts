import type { IncomingMessage, ServerResponse } from 'node:http';
import { readText, sendJson } from './stand-in-server.ts';

/** The fields that the orders of a stand-in have, by the kind of their value. */
export interface FaultFields {
  readonly texts: readonly string[];
  /** None is below 0. */
  readonly numbers: readonly string[];
  readonly flags: readonly string[];
}

/** Reads an order from JSON. @throws an Error that says which field is wrong. */
export function readFaultOrder(value: unknown, { texts, numbers, flags }: FaultFields): object {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error('a fault is an object');
  }
  for (const [name, field] of Object.entries(value)) {
    const known =
      (texts.includes(name) && typeof field === 'string') ||
      (flags.includes(name) && typeof field === 'boolean') ||
      (numbers.includes(name) && typeof field === 'number' && field >= 0);
    if (!known) throw new Error(`no such fault, or a wrong value: ${name}=${JSON.stringify(field)}`);
  }
  return value;
}

export interface FaultBook<Order, Asked> {
  set(orders: readonly Order[]): void;
  list(): readonly Order[];
  /** The first order that fits; one with `times` is used up by that. */
  take(asked: Asked): Order | undefined;
}

/** The orders in force. `times` of an order is how often it is used; always when left out. */
export function createFaultBook<Order extends { readonly times?: number }, Asked>(
  fits: (order: Order, asked: Asked) => boolean,
): FaultBook<Order, Asked> {
  let orders: readonly Order[] = [];
  return {
    set: (next) => {
      orders = [...next];
    },
    list: () => orders,
    take(asked) {
      const found = orders.find((order) => order.times !== 0 && fits(order, asked));
      if (found?.times !== undefined) {
        const used = { ...found, times: found.times - 1 };
        orders = orders.map((each) => (each === found ? used : each)).filter(({ times }) => times !== 0);
      }
      return found;
    },
  };
}

const maxOrdersBytes = 1 << 20;

/** `GET`, `PUT` and `DELETE /admin/faults`: shows, replaces (422 when one is wrong) or lifts the orders in force. */
export async function answerFaultOrders<Order>(
  request: IncomingMessage,
  response: ServerResponse,
  book: Pick<FaultBook<Order, never>, 'set' | 'list'>,
  parse: (value: unknown) => Order,
): Promise<void> {
  if (request.method === 'DELETE') book.set([]);
  if (request.method === 'PUT') {
    try {
      const value: unknown = JSON.parse(await readText(request, maxOrdersBytes));
      book.set((Array.isArray(value) ? value : [value]).map(parse));
    } catch (error) {
      return sendJson(response, 422, { message: error instanceof Error ? error.message : 'bad fault' });
    }
  }
  sendJson(response, 200, book.list());
}
