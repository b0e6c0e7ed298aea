import type { BusClient, Member, MemberOptions } from '../src/bus-client.ts';

/** The shortest that a broker takes. */
const shortestSessionMs = 6_000;

/** Members of the bus as `around` gives them back; `nth` counts from 1. */
export function busAround(
  bus: BusClient,
  around: (member: Member, options: MemberOptions, nth: number) => Member,
): BusClient {
  let made = 0;
  return {
    ...bus,
    openMember(options) {
      made += 1;
      return around(bus.openMember(options), options, made);
    },
  };
}

/** Whatever session timeout the watchdog counts with, the members have the shortest that the broker takes. */
export function brokersSession(bus: BusClient): BusClient {
  return {
    ...bus,
    openMember: (options) =>
      bus.openMember({
        ...options,
        settings: {
          ...options.settings,
          kafkaSessionTimeoutMs: shortestSessionMs,
          kafkaHeartbeatIntervalMs: 200,
        },
      }),
  };
}

/** A member that never seems to fetch: what a half dead connection looks like. */
export function silent(member: Member): Member {
  return new Proxy(member, {
    get: (target, name) => {
      if (name === 'lastFetchAt') return Number.NEGATIVE_INFINITY;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
