import { silentLog } from '@signalbox/telemetry/silent';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Heartbeat } from './heartbeat.ts';
import { HeldLanes } from './held-lanes.ts';
import type { HeldLane, WorkItem } from './queue.ts';

const leaseMs = 2_000;
const everyMs = 500;
const item: WorkItem = {
  ...{ tenant: 'acme', key: 's1', id: '01900000-0000-7000-8000-000000000001', format: 1, payload: {} },
  ...{ attempt: 1, retries: 0, enqueuedAt: new Date(0), traceparent: undefined },
};
const lane = { tenant: item.tenant, key: item.key, fence: 7 };

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** A heartbeat whose answers the test gives, in its order. */
function beating() {
  const asked: ((lanes: readonly HeldLane[]) => void)[] = [];
  const letGo: boolean[] = [];
  const held = new HeldLanes();
  const heartbeat = new Heartbeat({
    queue: {
      heartbeat: () => new Promise((resolve) => void asked.push((lanes) => resolve([...lanes]))),
      letGo: async (_lane, _owner, started) => {
        letGo.push(started);
        return true;
      },
    },
    ...{ held, owner: 'me', leaseMs, everyMs, log: silentLog, ignoreMs: 10_000 },
    oldestClaimSentAt: () => Number.POSITIVE_INFINITY,
    onLetGo: () => undefined,
    onStuck: () => undefined,
  });
  heartbeat.start();
  const answer = async (...lanes: HeldLane[]) => {
    await vi.advanceTimersByTimeAsync(everyMs);
    asked.shift()?.(lanes);
    await vi.advanceTimersByTimeAsync(0);
  };
  /** A run of the lane that begins now and loses its lease by the clock alone. */
  const runAndLose = async () => {
    const run = held.add(item, lane.fence, 'me', performance.now(), leaseMs);
    await vi.advanceTimersByTimeAsync(leaseMs);
    held.expire();
    expect(run.lease.signal.aborted).toBe(true);
    run.remove();
    heartbeat.dropped(lane, 'lost');
  };
  return { answer, runAndLose, letGo, heartbeat, asked };
}

const named: HeldLane = { ...lane, renewed: true };

/*
 *   a beat is sent; the claim of a lane commits and is answered, its run begins
 *   a blackout: the beat is not answered, the run loses its lease by the clock and is dropped
 *   the blackout ends: the beat is answered, from before the claim, without the lane
 *   the next two beats name it, for nobody took it: it is let go, and its item must be a new attempt
 */
test('a beat that was sent before a run was dropped does not forget that it had begun', async () => {
  const { answer, runAndLose, letGo, heartbeat, asked } = beating();
  await vi.advanceTimersByTimeAsync(0);
  expect(asked).toHaveLength(1);
  await runAndLose();
  await answer();
  await answer(named);
  await answer(named);
  expect(letGo).toEqual([true]);
  const stopped = heartbeat.stop();
  await answer();
  await stopped;
});

test('a beat that was sent after it, and does not name the lane, does: the next claim that is lost had no run', async () => {
  const { answer, runAndLose, letGo, heartbeat } = beating();
  await answer();
  await runAndLose();
  await answer(); // sent before
  await answer(); // sent behind it: the lane is not ours any more
  await answer(named);
  await answer(named);
  expect(letGo).toEqual([false]);
  const stopped = heartbeat.stop();
  await answer();
  await stopped;
});
