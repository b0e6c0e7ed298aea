import { asFault, fault } from '@signalbox/faults/fault';
import { sqlState } from '@signalbox/postgres/classify-error';

/** What an error of a handler means for its records. */
export type HandlerVerdict = 'away' | 'again' | 'poison';

/**
 * Pure and total. `away`: a store cannot answer now, so the partition waits and the records come again, in order.
 * `again`: this transaction lost a race; the same call at once. `poison`: the records themselves cannot be handled.
 */
export function judgeHandler(error: unknown): HandlerVerdict {
  const state = sqlState(error);
  const known = asFault(error); // an abort or the reason of a timeout signal says nothing about the record
  if (known.details?.kind === 'conflict') return 'again';
  if (known.retryable) return 'away';
  // A missing right, a statement that this schema does not know: the release and its database do not fit together yet.
  // Every record would fail alike; waiting loses nothing, dead letters would lose the order.
  if (state !== undefined && /^(42|0A|25|55)/.test(state)) return 'away';
  return 'poison';
}

const conflictTries = 4;

export interface Settling<Item> {
  /** Handles the items in one go. Throws; then none of them has had its effect. */
  handle(items: readonly Item[]): Promise<void>;
  /** Stores the dead letter of one item. Throws when it cannot: the item stays. */
  bury(item: Item, error: unknown): Promise<void>;
  /** Whether the error declares this very item as poison (`poisonRecord`). */
  isDeclared(item: Item, error: unknown): boolean;
}

/**
 * Settles items in order: all at once, and when that fails by halves, until the bad ones are alone and buried. `settled`
 * is told of each settled run, in order, so that whoever stops in the middle knows how far it came.
 * @throws a retryable fault when a store is away; what was settled before stays so.
 */
export async function settleInOrder<Item>(
  items: readonly Item[],
  settling: Settling<Item>,
  settled: (items: readonly Item[]) => void,
): Promise<void> {
  if (items.length === 0) return;
  let failure: unknown;
  for (let tries = 1; ; tries += 1) {
    try {
      await settling.handle(items);
      settled(items);
      return;
    } catch (error) {
      const verdict = judgeHandler(error);
      if (verdict === 'again' && tries < conflictTries) continue;
      if (verdict !== 'poison') throw storeAway(error);
      failure = error;
      break;
    }
  }
  const [only] = items;
  if (items.length === 1 && only !== undefined) {
    await buryOrStay(only, failure, settling);
    settled(items);
    return;
  }
  const at = items.findIndex((item) => settling.isDeclared(item, failure));
  const parts =
    at >= 0
      ? [items.slice(0, at), items.slice(at, at + 1), items.slice(at + 1)]
      : [items.slice(0, items.length >> 1), items.slice(items.length >> 1)];
  for (const part of parts) await settleInOrder(part, settling, settled);
}

/** A dead letter that cannot be stored, for whatever reason, is no reason to lose the record: the offset stays. */
async function buryOrStay<Item>(item: Item, failure: unknown, settling: Settling<Item>): Promise<void> {
  try {
    await settling.bury(item, failure);
  } catch (error) {
    throw storeAway(error);
  }
}

function storeAway(error: unknown): Error {
  const known = asFault(error);
  return known.retryable
    ? known
    : fault('DATABASE_UNAVAILABLE', 'the records cannot be stored now', { cause: error });
}
