import { describe, expect, it } from 'vitest';
import { FetchTimes } from './fetch-times.ts';

describe('the last answer to a fetch', () => {
  it('is that of the broker which has been silent for longest', () => {
    const times = new FetchTimes(5_000, 0);
    for (let now = 0; now <= 10_000; now += 500) {
      for (const broker of [1, 2, 3]) {
        times.asked(broker, now);
        if (broker !== 2 || now <= 1_000) times.answered(broker, now + 100);
      }
    }
    expect(times.lastAnswerAt(10_500)).toBe(1_100);
  });

  it('forgets a broker that is not asked any more', () => {
    const times = new FetchTimes(5_000, 0);
    times.asked(1, 0);
    for (let now = 0; now <= 10_000; now += 500) {
      times.asked(2, now);
      times.answered(2, now + 100);
    }
    expect(times.lastAnswerAt(10_500)).toBe(10_100);
  });

  it('is the last of all while nobody is asked, as in a long handler, and begins anew with an assignment', () => {
    const times = new FetchTimes(5_000, 0);
    times.asked(1, 1_000);
    times.answered(1, 1_200);
    expect(times.lastAnswerAt(9_000)).toBe(1_200);
    times.asked(1, 9_000);
    times.restart(9_500);
    expect(times.lastAnswerAt(9_600)).toBe(9_500);
  });
});
