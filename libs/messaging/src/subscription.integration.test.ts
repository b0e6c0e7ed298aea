import { newId } from '@signalbox/contracts/ids';
import { silentMetrics } from '@signalbox/telemetry/silent';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { inbound, type Process, Stack } from '../test/stack.ts';
import type { BusClient, Member, MemberOptions } from './bus-client.ts';
import { kafkajsBus } from './kafkajs-bus.ts';
import { openMessaging } from './messaging.ts';

let stack: Stack;
const open = new Set<Process>();
beforeAll(async () => {
  stack = await Stack.create('conversation.inbound');
});
afterEach(async () => {
  await Promise.all([...open].map((process) => process.close()));
  open.clear();
});
afterAll(() => stack?.drop());

/** Real members; `around` sees each of them as it is made. */
function busAround(around: (member: Member, options: MemberOptions, nth: number) => Member): BusClient {
  let made = 0;
  return {
    ...kafkajsBus,
    openMember(options) {
      made += 1;
      const settings = { ...options.settings, kafkaSessionTimeoutMs: 6_000, kafkaHeartbeatIntervalMs: 500 };
      return around(kafkajsBus.openMember({ ...options, settings }), options, made);
    },
  };
}

/** A member that never seems to fetch: what a half dead connection looks like. */
function silent(member: Member): Member {
  return new Proxy(member, {
    get: (target, name) => {
      if (name === 'lastFetchAt') return 0;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

const texts = (seen: readonly string[], wanted: string) =>
  waitFor(
    () => seen,
    (got) => got.includes(wanted),
    { timeoutMs: 20_000, label: wanted },
  );

describe('a subscription', () => {
  it('builds a consumer anew that has crashed, and reads on', async () => {
    const crash: (() => void)[] = [];
    const bus = busAround((member, { listener }) => {
      crash.push(() => listener.crashed(new TypeError('x is not a function')));
      return member;
    });
    const process = stack.process({ bus });
    open.add(process);
    const seen: string[] = [];
    process.messaging.consumeRaw({
      topic: 'conversation.inbound',
      group: 'crash',
      handler: async (records) =>
        void seen.push(...records.map(({ headers }) => headers['x-request-id'] ?? '')),
    });
    const session = newId();
    const send = (text: string) =>
      process.database.transaction((tx) =>
        process.messaging.outbox.put(tx, [inbound(session, text, { requestId: text })]),
      );
    await send('before');
    await texts(seen, 'before');
    crash[0]?.();
    crash[0]?.(); // a life ends once
    await send('after');
    await texts(seen, 'after');
    expect(crash.length).toBe(2);
  });

  it('replaces a member that is silent while the broker answers others', async () => {
    const bus = busAround((member, _options, nth) => (nth === 1 ? silent(member) : member));
    const process = stack.process({ bus, settings: { kafkaSessionTimeoutMs: 1_000 } });
    open.add(process);
    const consumer = process.messaging.consumeRaw({
      topic: 'conversation.inbound',
      group: 'silent',
      handler: async () => undefined,
    });
    await waitFor(
      () => process.log.lines,
      (lines) => lines.some(({ event }) => event === 'consumer.rebuilding'),
      { label: 'rebuilt' },
    );
    await waitFor(
      () => consumer.assigned(),
      (partitions) => partitions.length === 6,
      { timeoutMs: 20_000 },
    );
    consumer.probe();
  });

  it('asks for the end of the process when building anew does not help', async () => {
    const bus = busAround((member) => silent(member));
    const stops: string[] = [];
    const database = stack.openDatabase();
    const messaging = openMessaging({
      settings: stack.settings({ kafkaSessionTimeoutMs: 400 }),
      instanceId: newId(),
      service: 'doomed',
      database,
      log: stack.process().log,
      metrics: silentMetrics,
      bus,
      lifecycle: {
        stopEvent: new AbortController().signal,
        onStop: () => undefined,
        configure: () => undefined,
        background: () => undefined,
        stop: async (reason) => void stops.push(reason),
      },
    });
    const consumer = messaging.consumeRaw({
      topic: 'conversation.inbound',
      group: 'doomed',
      handler: async () => undefined,
    });
    await waitFor(
      () => stops,
      (got) => got.length > 0,
      { timeoutMs: 25_000, label: 'the stop' },
    );
    expect(stops[0]).toContain('conversation.inbound');
    expect(() => consumer.probe()).toThrow();
    await messaging.close(1_000);
    await database.close(500);
  });
});
