import { describe, expect, it } from 'vitest';
import { admit, type LaneRow, Lanes } from './outbox-lanes.ts';

const row = (id: number, prevId?: number): LaneRow => ({
  id: BigInt(id),
  prevId: prevId === undefined ? undefined : BigInt(prevId),
});
const ids = (rows: readonly LaneRow[]) => rows.map(({ id }) => Number(id));
const lane = () => new Lanes<LaneRow>().get('conversation.inbound', 'acme:1');

describe('admit', () => {
  it('queues rows in id order whatever the order of their commits', () => {
    const rows = [row(1), row(4, 1), row(7, 4), row(9, 7)];
    for (const order of permutations(rows)) {
      const at = lane();
      expect(ids(order.flatMap((each) => admit(at, each)))).toEqual([1, 4, 7, 9]);
    }
  });

  it('does not wait for a row that was sent and deleted before the put looked', () => {
    const at = lane();
    expect(ids(admit(at, row(5)))).toEqual([5]);
    expect(ids(admit(at, row(8)))).toEqual([8]);
  });

  it('waits for a predecessor that it does not know', () => {
    const at = lane();
    expect(admit(at, row(8, 5))).toEqual([]);
    expect(admit(at, row(9, 8))).toEqual([]);
    expect(ids(at.held)).toEqual([8, 9]);
  });
});

describe('Lanes', () => {
  it('keeps a bounded number, and never drops one that is in use', () => {
    const lanes = new Lanes<LaneRow>();
    const busy = lanes.get('conversation.inbound', 'busy');
    busy.directQueued = 1;
    for (let n = 0; n < 25_000; n += 1) lanes.get('conversation.inbound', String(n));
    expect(lanes.size).toBeLessThanOrEqual(20_000);
    expect(lanes.get('conversation.inbound', 'busy')).toBe(busy);
  });
});

function permutations<T>(items: readonly T[]): T[][] {
  if (items.length < 2) return [[...items]];
  return items.flatMap((item, i) => permutations(items.toSpliced(i, 1)).map((rest) => [item, ...rest]));
}
