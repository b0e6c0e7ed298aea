import { newId } from '@signalbox/contracts/ids';
import { silentLog } from '@signalbox/telemetry/silent';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Stack } from '../test/stack.ts';
import type { IntakeRecord } from './decode-record.ts';
import { type ReplayOptions, replayTopic } from './replay-topic.ts';

let stack: Stack;
const ids = Array.from({ length: 500 }, () => newId());

beforeAll(async () => {
  stack = await Stack.create('memory.wal');
  await write(ids);
});

afterAll(() => stack?.drop());

async function write(memoryIds: readonly string[], key = (id: string) => `acme:${id}`): Promise<void> {
  const producer = stack.kafka().producer();
  await producer.connect();
  await producer.send({
    topic: `${stack.topics.prefix}memory.wal`,
    messages: memoryIds.map((id) => ({
      key: key(id),
      value: JSON.stringify({ memory_id: id, version: 1, deleted_at: new Date().toISOString() }),
      headers: {
        tenant_id: 'acme',
        event_id: newId(),
        event_type: 'memory.deleted',
        schema: 'memory.wal.v1',
      },
    })),
  });
  await producer.disconnect();
}

const replay = (onRecords: ReplayOptions['onRecords'], more: Partial<ReplayOptions> = {}) =>
  replayTopic({
    ...{
      settings: stack.settings(),
      topic: 'memory.wal',
      log: silentLog,
      signal: new AbortController().signal,
    },
    ...{ onRecords, ...more },
  });

it('hands over all that the topic holds, in order within a partition, in calls that are bounded', async () => {
  const read: IntakeRecord[] = [];
  const last = new Map<number, bigint>();
  const found = await replay(
    async (records) => {
      expect(records.length).toBeLessThanOrEqual(20);
      for (const { partition, offset } of records) {
        expect(offset).toBeGreaterThan(last.get(partition) ?? -1n);
        last.set(partition, offset);
      }
      read.push(...records);
    },
    { maxBatch: 20 },
  );
  expect(found).toEqual({ records: 500, unreadable: 0 });
  expect(read.map(({ keyId }) => keyId).sort()).toEqual([...ids].sort());
});

it('counts what no consumer can read, and hands over the rest', async () => {
  await write([newId()], () => 'no key of ours');
  let read = 0;
  const found = await replay(async (records) => {
    read += records.length;
  });
  expect(found).toEqual({ records: 501, unreadable: 1 });
  expect(read).toBe(500);
});

it('ends with what its caller throws, and with the signal', async () => {
  await expect(replay(() => Promise.reject(new Error('no more of it')))).rejects.toThrow('no more of it');
  const stopping = new AbortController();
  const aborted = replay(
    async () => {
      stopping.abort();
    },
    { signal: stopping.signal },
  );
  await expect(aborted).rejects.toMatchObject({ code: 'ABORTED' });
});

it('leaves no group behind', async () => {
  await replay(async () => undefined);
  const admin = stack.kafka().admin();
  await admin.connect();
  const { groups } = await admin.listGroups();
  await admin.disconnect();
  expect(groups.filter(({ groupId }) => groupId.startsWith(`${stack.topics.prefix}replay-`))).toEqual([]);
});
