import { silentLog } from '@signalbox/telemetry/silent';
import { sleep, waitFor } from '@signalbox/testkit/wait';
import { ConfigResourceTypes } from 'kafkajs';
import { expect, it } from 'vitest';
import { Stack } from '../test/stack.ts';
import { openLogReader } from './log-reader.ts';

const records = 60;

// The broker compacts when it comes to it: seconds, up to half a minute.
it('finds the next record of a compacted log behind each offset, the gap of what is gone included', async () => {
  const stack = await Stack.create('memory.wal');
  const topic = `${stack.topics.prefix}memory.wal`;
  const admin = stack.kafka().admin();
  const producer = stack.kafka().producer({ createPartitioner: () => () => 0 });
  await Promise.all([admin.connect(), producer.connect()]);
  const configEntries = [
    ...[{ name: 'cleanup.policy', value: 'compact' }],
    ...[{ name: 'segment.ms', value: '100' }],
    ...[{ name: 'min.cleanable.dirty.ratio', value: '0.0' }],
    ...[{ name: 'max.compaction.lag.ms', value: '100' }],
  ];
  await admin.alterConfigs({
    validateOnly: false,
    resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries }],
  });
  for (let n = 0; n < records; n += 1) {
    await producer.send({ topic, messages: [{ key: `acme:${n % 2}`, value: String(n) }] });
    await sleep(30); // so that there are segments to compact
  }
  const reader = await openLogReader(stack.settings(), topic, 'nobody', silentLog);
  const high = BigInt(records);
  const first = await waitFor(
    () => reader.firstFrom(0, 0n, high),
    (found) => found !== undefined && found.offset > 10n,
    { timeoutMs: 60_000, intervalMs: 500, label: 'a compacted head' },
  );
  expect((await reader.firstFrom(0, first?.offset ?? 0n, high))?.offset).toBe(first?.offset);
  expect((await reader.firstFrom(0, high - 1n, high))?.offset).toBe(high - 1n);
  expect(await reader.firstFrom(0, high, high)).toBeUndefined();
  await Promise.all([reader.close(), producer.disconnect(), admin.disconnect()]);
  await stack.drop();
}, 90_000);
