import { newId } from '@signalbox/contracts/ids';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { brokersSession, busAround, silent } from '../test/member-wrappers.ts';
import { inbound, type Process, Stack } from '../test/stack.ts';
import { kafkajsBus } from './kafkajs-bus.ts';

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

const texts = (seen: readonly string[], wanted: string) =>
  waitFor(
    () => seen,
    (got) => got.includes(wanted),
    { timeoutMs: 20_000, label: wanted },
  );

describe('a subscription', () => {
  it('builds a consumer anew that has crashed, and reads on', async () => {
    const crash: (() => void)[] = [];
    const bus = busAround(kafkajsBus, (member, { listener }) => {
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
    const bus = busAround(brokersSession(kafkajsBus), (member, _, nth) =>
      nth === 1 ? silent(member) : member,
    );
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
});
