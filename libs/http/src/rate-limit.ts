import { fault } from '@signalbox/faults/fault';
import type { Redis } from '@signalbox/redis/redis';
import type { FastifyReply } from 'fastify';

export interface RateLimitOptions {
  /** Requests that one key may make in a window; 0 turns the limit off. */
  readonly limit: number;
  readonly windowMs: number;
  /** Names the limit in Redis; two limits of one server have two names. */
  readonly name: string;
  /** Shares the counts between replicas; without it each replica counts alone. */
  readonly redis?: Redis;
  /** How often counts are exchanged with Redis; 200 ms. Replicas together overshoot by at most what arrives in it. */
  readonly syncMs?: number;
  /** Keys counted at once; past it the one not seen for longest is forgotten. 10 000. */
  readonly maxKeys?: number;
  now?(): number;
}

export interface RateLimitState {
  readonly allowed: boolean;
  readonly limit: number;
  readonly remaining: number;
  /** Seconds until the window ends. */
  readonly resetSeconds: number;
}

export interface RateLimit {
  /** Counts one request of the key and says whether it may pass. Answers at once, from memory. */
  take(key: string): RateLimitState;
  /**
   * Counts one request of the tenant, sets RateLimit-Limit, -Remaining and -Reset, and throws RATE_LIMITED (with
   * Retry-After) past the limit.
   */
  enforce(reply: FastifyReply, tenant: string): void;
  /** Exchanges counts with Redis now; the timer does it otherwise. Never throws. */
  sync(): Promise<void>;
  stop(): void;
}

interface Count {
  window: number;
  /** What all replicas together had counted at the last exchange, this one's share in it. */
  shared: number;
  /** Counted here since then. */
  unsent: number;
}

/** Adds what this replica has counted and answers the sum of all; the key outlives its window by one. */
const addCounts = `
local total = redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return total
`;

/** A round takes at most this many keys to Redis; the rest wait for the next. */
const maxKeysPerSync = 1000;

/**
 * A limit in fixed windows of the wall clock, the same on every replica. A request is decided from memory: asking Redis
 * within each request costs a round trip on the accept path and makes Redis a condition of accepting. What was counted
 * goes to Redis in the background; while it is away each replica limits alone, and catches up afterwards.
 */
export function createRateLimit(options: RateLimitOptions): RateLimit {
  const { limit, windowMs, name, redis, syncMs = 200, maxKeys = 10_000, now = Date.now } = options;
  const counts = new Map<string, Count>();
  const waiting = new Set<string>();
  const add = redis?.script(`rate_limit_${name}`, { keys: 1, lua: addCounts });
  let syncing = false;

  function countOf(key: string, window: number): Count {
    let count = counts.get(key);
    if (count === undefined) {
      count = { window, shared: 0, unsent: 0 };
      const oldest = counts.size >= maxKeys ? counts.keys().next().value : undefined;
      if (oldest !== undefined) {
        counts.delete(oldest);
        waiting.delete(oldest);
      }
    } else {
      counts.delete(key); // put back at the end: the map's order is the order of last use
      if (count.window !== window) Object.assign(count, { window, shared: 0, unsent: 0 });
    }
    counts.set(key, count);
    return count;
  }

  function take(key: string): RateLimitState {
    const at = now();
    const window = Math.floor(at / windowMs);
    const count = countOf(key, window);
    const used = count.shared + count.unsent + 1;
    const allowed = limit === 0 || used <= limit;
    // A refused request is not counted: who hammers a closed door gets in when the window ends, like everybody.
    if (allowed) {
      count.unsent += 1;
      if (add !== undefined) waiting.add(key);
    }
    return {
      allowed,
      limit,
      remaining: Math.max(0, limit - used),
      resetSeconds: Math.max(1, Math.ceil(((window + 1) * windowMs - at) / 1000)),
    };
  }

  async function sync(): Promise<void> {
    if (add === undefined || syncing) return;
    syncing = true;
    try {
      const keys = [...waiting].slice(0, maxKeysPerSync);
      for (const key of keys) waiting.delete(key);
      await Promise.all(keys.map((key) => exchange(key, add)));
    } finally {
      syncing = false;
    }
  }

  async function exchange(key: string, script: NonNullable<typeof add>): Promise<void> {
    const count = counts.get(key);
    if (count === undefined || count.unsent === 0) return;
    const { window, unsent: sent } = count;
    // Counted as shared while under way: a request in between must see it once, not twice and not never.
    count.unsent -= sent;
    count.shared += sent;
    try {
      const total = await script([`rate:${name}:${key}:${window}`], [sent, windowMs * 2]);
      if (count.window === window) count.shared = Math.max(count.shared, Number(total));
    } catch {
      // Redis is away, which its readiness check tells. Sent again later; if it had arrived, the limit errs to the safe side.
      if (count.window !== window) return;
      count.shared -= sent;
      count.unsent += sent;
      waiting.add(key);
    }
  }

  const timer = add === undefined ? undefined : setInterval(() => void sync(), syncMs).unref();

  return {
    take,
    enforce(reply, tenant) {
      if (limit === 0) return;
      const state = take(tenant);
      reply.header('ratelimit-limit', state.limit);
      reply.header('ratelimit-remaining', state.remaining);
      reply.header('ratelimit-reset', state.resetSeconds);
      if (state.allowed) return;
      throw fault('RATE_LIMITED', `more than ${limit} requests in ${windowMs / 1000} s`, {
        retryAfterMs: state.resetSeconds * 1000,
      });
    },
    sync,
    stop: () => clearInterval(timer),
  };
}
