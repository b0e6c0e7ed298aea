import { newId } from '@signalbox/contracts/ids';
import { silentLog } from '@signalbox/telemetry/silent';
import { sleep, waitFor } from '@signalbox/testkit/wait';
import { ConfigResourceTypes } from 'kafkajs';
import { expect, it } from 'vitest';
import { Stack } from '../test/stack.ts';
import { replayTopic } from './replay-topic.ts';

// The broker compacts when it comes to it: seconds, up to half a minute.
it('reads a compacted topic to its end, whatever is gone of it, the last version of each key with it', async () => {
  const stack = await Stack.create('memory.wal');
  const topic = `${stack.topics.prefix}memory.wal`;
  const admin = stack.kafka().admin();
  const producer = stack.kafka().producer();
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
  const ids = Array.from({ length: 12 }, () => newId());
  const versions = 20;
  for (let version = 1; version <= versions; version += 1) {
    await producer.send({
      topic,
      messages: ids.map((id) => ({
        key: `acme:${id}`,
        value: JSON.stringify({ memory_id: id, version, deleted_at: new Date().toISOString() }),
        headers: {
          tenant_id: 'acme',
          event_id: newId(),
          event_type: 'memory.deleted',
          schema: 'memory.wal.v1',
        },
      })),
    });
    await sleep(60); // so that there are segments to compact
  }
  const replay = async () => {
    const last = new Map<string, unknown>();
    const { records } = await replayTopic({
      ...{
        settings: stack.settings(),
        topic: 'memory.wal',
        log: silentLog,
        signal: new AbortController().signal,
      },
      async onRecords(some) {
        for (const { keyId, value } of some) last.set(keyId, Reflect.get(Object(value), 'version'));
      },
    });
    return { records, last };
  };
  const { last } = await waitFor(replay, ({ records }) => records < (ids.length * versions) / 2, {
    timeoutMs: 90_000,
    intervalMs: 1_000,
    label: 'a compacted topic',
  });
  expect(last).toEqual(new Map(ids.map((id) => [id, versions])));
  await Promise.all([producer.disconnect(), admin.disconnect()]);
  await stack.drop();
}, 120_000);
