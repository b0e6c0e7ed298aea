import { fault } from '@signalbox/faults/fault';
import { silentLog } from '@signalbox/telemetry/silent';
import { expect, test } from 'vitest';
import { askAgain } from './ask-again.ts';
import { type DoPiece, scheduleRunner } from './run-schedule.ts';
import type { RunEnd, ScheduleStore } from './schedule-store.ts';

const tick = new Date('2026-01-01T03:44:00Z');

/** Runs the schedule once, and says how it ended. */
async function run(
  doPiece: DoPiece,
  { bounds = 1, mine = true, signal = new AbortController().signal, runMs = 60_000 } = {},
) {
  const ends: RunEnd[] = [];
  const store: ScheduleStore = {
    begin: async () => ({ done: 0, resume: { at: 1 } }),
    progress: async () => mine,
    end: async (_name, _tick, end) => void ends.push(end),
    all: async () => [],
  };
  const schedule = {
    ...{ name: 'x.y', owner: 'x', task: 'y', cron: '* * * * *', everyMs: 60_000, bounds },
  };
  const runner = scheduleRunner({
    ...{ schedules: [schedule], store, doPiece, limit: 10, runMs, retryMs: 1, log: silentLog },
  });
  const outcome = await runner('x.y', tick, signal);
  return { outcome, end: ends[0] };
}

const failing = (code: Parameters<typeof fault>[0], times: number) => {
  let calls = 0;
  const doPiece: DoPiece = async () => {
    calls += 1;
    if (calls <= times) throw fault(code, 'told');
    return { done: 1, more: false };
  };
  return { doPiece, calls: () => calls };
};

test('what may pass is a failed run that the next one goes on with', async () => {
  const { doPiece, calls } = failing('OWNER_TIMEOUT', 1);
  expect(await run(doPiece)).toEqual({
    outcome: 'failed',
    end: { outcome: 'failed', error: 'OWNER_TIMEOUT: told', keepResume: true },
  });
  expect(calls()).toBe(1);
});

test('what its owner refuses for good is begun anew by the next run', async () => {
  expect((await run(failing('NOT_FOUND', 1).doPiece)).end).toMatchObject({ keepResume: false });
});

test('a daily schedule waits for its owner a few times', async () => {
  expect((await run(failing('OWNER_TIMEOUT', 4).doPiece, { bounds: 30 })).outcome).toBe('done');
  const { doPiece, calls } = failing('OWNER_TIMEOUT', 9);
  expect((await run(doPiece, { bounds: 30 })).outcome).toBe('failed');
  expect(calls()).toBe(5);
  const refused = failing('NOT_FOUND', 9);
  await run(refused.doPiece, { bounds: 30 });
  expect(refused.calls()).toBe(1);
});

test('a run whose time is over says that there is more, and where', async () => {
  const { end } = await run(async () => ({ done: 1, more: true, resume: { at: 2 } }), { runMs: -1 });
  expect(end).toMatchObject({ outcome: 'more', keepResume: true });
});

test('a run that another has taken over ends nothing, and not the job either', async () => {
  const doPiece: DoPiece = async () => ({ done: 1, more: true });
  await expect(run(doPiece, { mine: false })).rejects.toMatchObject({ code: 'LEASE_LOST' });
});

test('a run that a stop ends is given back, and not a failed one', async () => {
  const stop = new AbortController();
  const doPiece: DoPiece = async () => {
    stop.abort();
    return { done: 1, more: true };
  };
  await expect(run(doPiece, { signal: stop.signal })).rejects.toThrow('aborted');
});

test('who is refused by a replica that stops asks another one', async () => {
  const refusing = (times: number) => {
    let calls = 0;
    return askAgain(async () => {
      calls += 1;
      if (calls <= times) throw fault('DRAINING', 'stopping');
      return calls;
    });
  };
  expect(await refusing(2)).toBe(3);
  await expect(refusing(3)).rejects.toMatchObject({ code: 'DRAINING' });
});
