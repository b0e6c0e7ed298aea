import { expect, test } from 'vitest';
import { expiryMarginMs, HeldLanes } from './held-lanes.ts';
import type { WorkItem } from './queue.ts';

const item: WorkItem = {
  tenant: 'acme',
  key: 's1',
  id: '01900000-0000-7000-8000-000000000001',
  format: 1,
  payload: {},
  attempt: 1,
  retries: 0,
  enqueuedAt: new Date(0),
  traceparent: undefined,
};
const lane = (fence: number, renewed = true) => ({ tenant: 'acme', key: 's1', fence, renewed });

function at(start: number) {
  let now = start;
  const lanes = new HeldLanes(() => now);
  return {
    lanes,
    moveTo: (ms: number) => {
      now = ms;
    },
  };
}

test('the lease counts from when the claim was sent, and ends a margin early', () => {
  const { lanes, moveTo } = at(1000);
  const { lease } = lanes.add(item, 7, 'me', 900, 5000);
  moveTo(900 + 5000 - expiryMarginMs - 1);
  expect(lease.holds()).toBe(true);
  moveTo(900 + 5000 - expiryMarginMs);
  expect(lease.signal.aborted).toBe(false);
  expect(lease.holds()).toBe(false);
  expect(lease.signal.aborted).toBe(true);
});

test('a renewal counts from when its heartbeat was sent; one that passed the lane over does not count', () => {
  const { lanes, moveTo } = at(0);
  const { lease } = lanes.add(item, 7, 'me', 0, 5000);
  lanes.renewed([lane(7, false)], 3000, 5000);
  lanes.renewed([lane(7)], 2000, 5000);
  moveTo(2000 + 5000 - expiryMarginMs - 1);
  lanes.expire();
  expect(lease.signal.aborted).toBe(false);
  moveTo(2000 + 5000);
  lanes.expire();
  expect(lease.signal.aborted).toBe(true);
});

test('a lane that a heartbeat does not name, or names with another fence, is lost', () => {
  for (const named of [[], [lane(8)]]) {
    const { lanes } = at(100);
    const { lease, ended } = lanes.add(item, 7, 'me', 90, 5000);
    // Sent before the claim came back: it cannot know.
    lanes.renewed(named, 95, 5000);
    expect(ended()).toBeUndefined();
    lanes.renewed(named, 101, 5000);
    expect(ended()).toBe('lost');
    expect(lease.signal.reason).toMatchObject({ code: 'LEASE_LOST' });
  }
});

test('a stop ends the run and not the right to hand over', () => {
  const { lanes } = at(0);
  const { lease, ended, remove } = lanes.add(item, 7, 'me', 0, 5000);
  lanes.endAll('stop');
  expect(ended()).toBe('stop');
  expect(lease.signal.reason).toMatchObject({ code: 'DRAINING' });
  expect(lease.holds()).toBe(true);
  remove();
  expect(lanes.size).toBe(0);
});

test('a run that ignores the end is forgotten after its time; a later claim of the lane is not', () => {
  const { lanes, moveTo } = at(0);
  const old = lanes.add(item, 7, 'me', 0, 5000);
  lanes.endAll('lost');
  moveTo(20_000);
  expect(lanes.dropStuck(10_000)).toEqual([{ tenant: 'acme', key: 's1', fence: 7 }]);
  lanes.add(item, 9, 'me', 20_000, 5000);
  old.remove();
  expect(lanes.has(lane(9))).toBe(true);
  expect(lanes.has(lane(7))).toBe(false);
});

test('a cancel ends the run and not the lease; what ends the item has a signal of its own', () => {
  const { lanes, moveTo } = at(0);
  const { lease, endingLease, ended } = lanes.add(item, 7, 'me', 0, 5000);
  const cancelled = { id: item.id, cancel: { by: 'u1' } };
  // Of the item that ran in the lane before: the beat looked twice, the lane went on between.
  lanes.renewed([{ ...lane(7), cancelled: { ...cancelled, id: 'another' } }], 10, 5000);
  expect(lease.signal.aborted).toBe(false);
  lanes.renewed([{ ...lane(7), cancelled }], 20, 5000);
  expect(lease.signal.reason).toMatchObject({ code: 'CANCELLED' });
  expect(lease.cancelled()).toEqual({ by: 'u1' });
  expect(ended()).toBeUndefined();
  expect(lease.holds()).toBe(true);
  const ending = endingLease();
  lanes.renewed([{ ...lane(7), cancelled }], 30, 5000);
  expect(ending.signal.aborted).toBe(false);
  expect(ending.cancelled()).toEqual({ by: 'u1' });
  moveTo(6000);
  lanes.expire();
  expect(ending.signal.reason).toMatchObject({ code: 'LEASE_LOST' });
  expect(lease.holds()).toBe(false);
});

test('a lease that a stop ended can still be lost; an item claimed as cancelled has nothing to be told', () => {
  const { lanes, moveTo } = at(0);
  const { lease, end, ended } = lanes.add({ ...item, cancel: { by: 'u1' } }, 7, 'me', 0, 5000);
  lanes.cancel(item, item.id, { by: 'u2' });
  expect(lease.signal.aborted).toBe(false);
  expect(lease.cancelled()).toEqual({ by: 'u1' });
  end('stop');
  expect(lease.holds()).toBe(true);
  moveTo(5000);
  expect(lease.holds()).toBe(false);
  expect(ended()).toBe('lost');
});
