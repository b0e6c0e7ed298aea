import { describe, expect, test } from 'vitest';
import { crontabOf, type Schedule, schedulesOf } from './schedules.ts';

const minuteMs = 60_000;
const all = schedulesOf({ notificationsJanitor: true, memoryCompaction: true });

/** The ticks in [from, to), as graphile-worker finds them. */
function ticks(schedule: Schedule, from: number, to: number): number {
  const [item] = crontabOf([schedule]);
  let found = 0;
  for (let at = Math.ceil(from / minuteMs) * minuteMs; at < to; at += minuteMs) {
    const ts = new Date(at);
    const digest = {
      min: ts.getUTCMinutes(),
      hour: ts.getUTCHours(),
      date: ts.getUTCDate(),
      month: ts.getUTCMonth() + 1,
      dow: ts.getUTCDay(),
    };
    if (item?.match(digest) === true) found += 1;
  }
  return found;
}

describe.each(all)('$name', (schedule) => {
  test('has one tick in the time that is caught up, whenever a replica starts', () => {
    const startedAt = [0, 17, 59, 61, 225, 12 * 60 + 3].map(
      (minutes) => Date.UTC(2026, 2, 1) + minutes * minuteMs + 1_234,
    );
    for (const now of startedAt) expect(ticks(schedule, now - schedule.everyMs, now)).toBe(1);
  });
});

test('names are unique, one job of a schedule waits and one runs', () => {
  const items = crontabOf(all);
  expect(new Set(items.map(({ identifier }) => identifier)).size).toBe(all.length);
  for (const { identifier, options } of items) {
    expect(options).toMatchObject({
      jobKey: `schedule:${identifier}`,
      jobKeyMode: 'replace',
      queueName: `schedule ${identifier}`,
    });
  }
});

test('the janitor of notifications and the compaction of memories have flags', () => {
  const names = schedulesOf({ notificationsJanitor: false, memoryCompaction: false }).map(({ name }) => name);
  const gone = all.map(({ name }) => name).filter((name) => !names.includes(name));
  expect(gone).toEqual(['gateway.notifications', 'memory-replicator.memory_compaction']);
});
