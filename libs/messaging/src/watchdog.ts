/** What the watchdog sees of a member; times are monotonic milliseconds. */
export interface MemberSigns {
  readonly now: number;
  readonly lastFetchAt: number;
  readonly lastHeartbeatAt: number;
  readonly sessionTimeoutMs: number;
  readonly rebalanceTimeoutMs: number;
  /** The member waits for the others of its group to join. */
  readonly joining: boolean;
}

export interface MemberHealth {
  /** `silent`: no fetch or no heartbeat was answered for 1.5 session timeouts; the service is unready. */
  readonly verdict: 'ok' | 'silent';
  readonly fetchAgeMs: number;
}

/**
 * A black hole of 60 s produces no event in kafkajs until it heals (issues 659, 267): only the age of the last answers
 * tells. A member without partitions fetches nothing and lives by its heartbeats, which kafkajs sends after each round of
 * its loop; one with partitions needs both. A join may take as long as the slowest other member is given for it.
 */
export function judgeMember(signs: MemberSigns): MemberHealth {
  const bound = 1.5 * signs.sessionTimeoutMs + (signs.joining ? signs.rebalanceTimeoutMs : 0);
  const fetchAgeMs = signs.now - signs.lastFetchAt;
  const heartbeatAgeMs = signs.now - signs.lastHeartbeatAt;
  const silent = fetchAgeMs > bound || heartbeatAgeMs > bound;
  return { verdict: silent ? 'silent' : 'ok', fetchAgeMs };
}
