import { expect, it } from 'vitest';
import { judgeMember } from './watchdog.ts';

it('is silent when either the last fetch or the last heartbeat is older than 1.5 session timeouts', () => {
  const at = (fetchAge: number, heartbeatAge: number, joining = false) =>
    judgeMember({
      now: 100_000,
      lastFetchAt: 100_000 - fetchAge,
      lastHeartbeatAt: 100_000 - heartbeatAge,
      sessionTimeoutMs: 6_000,
      rebalanceTimeoutMs: 15_000,
      joining,
    }).verdict;
  expect([at(0, 0), at(9_000, 9_000), at(9_001, 0), at(0, 9_001)]).toEqual(['ok', 'ok', 'silent', 'silent']);
  expect([at(20_000, 20_000, true), at(24_001, 0, true)]).toEqual(['ok', 'silent']);
});
