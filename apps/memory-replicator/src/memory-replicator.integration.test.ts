import { newId } from '@signalbox/contracts/ids';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, startHarness, tenant } from '../test/replicator-harness.ts';

let harness: Harness;
let service: SpawnedService;

beforeAll(async () => {
  harness = await startHarness();
  service = await harness.start();
});

afterAll(async () => {
  await service?.[Symbol.asyncDispose]();
  await harness?.close();
});

test('a memory of the topic is recalled by its words, with a score from 0 to 1', async () => {
  const [id = ''] = await harness.write([
    { text: 'The blue bicycle stands in the cellar of the Hamburg office.' },
    { text: 'Lunch is at noon.' },
  ]);
  await harness.replicated(new Map([[id, 1]]));
  await harness.indexed();
  const found = await harness.recall('where is the bicycle?');
  expect(found[0]).toMatchObject({ memory_id: id, version: 1, role: 'user', namespace: 'default' });
  expect(found[0]?.score).toBeGreaterThan(0);
  expect(found[0]?.score).toBeLessThanOrEqual(1);
});

test('a version that is repeated or late changes nothing, and a deleted memory does not come back', async () => {
  const id = newId();
  await harness.write([{ memoryId: id, version: 2, text: 'second' }]);
  await harness.write([{ memoryId: id, version: 1, text: 'first, and late' }]);
  await harness.write([{ memoryId: id, version: 2, text: 'second' }]);
  await harness.write([{ memoryId: id, version: 3, deletedAt: new Date() }]);
  await harness.write([{ memoryId: id, version: 2, text: 'second' }]);
  const [marker = ''] = await harness.write([{ text: 'behind them' }]);
  await harness.replicated(
    new Map([
      [marker, 1],
      [id, 3],
    ]),
  );
  const row = (await harness.rows()).find(({ memory_id: each }) => each === id);
  expect(row).toMatchObject({ version: 3, body: null });
  await harness.indexed();
  expect((await harness.recall('second first late')).map((memory) => memory.memory_id)).not.toContain(id);
});

test('pages come over the topics too, and what cannot be asked is refused', async () => {
  const [id = ''] = await harness.write([{ tenant: 'pages', text: 'on a page' }]);
  await harness.replicated(new Map([[id, 1]]));
  expect(await harness.page({}, 'pages')).toEqual({
    memories: [expect.objectContaining({ memory_id: id, text: 'on a page' })],
  });
  expect(await harness.page({}, 'nobody')).toEqual({ memories: [] });
});

test('a record whose key is not that of its memory becomes a dead letter, and its neighbours are replicated', async () => {
  const [before = ''] = await harness.write([{ text: 'before the bad one' }]);
  await harness.messaging.producer.direct({
    topic: 'memory.wal',
    key: `${tenant}:${newId()}`,
    headers: { tenant_id: tenant, event_id: newId(), event_type: 'memory.deleted', schema: 'memory.wal.v1' },
    value: { memory_id: before, version: 9, deleted_at: new Date().toISOString() },
  });
  const [after = ''] = await harness.write([{ text: 'after the bad one' }]);
  await harness.replicated(
    new Map([
      [before, 1],
      [after, 1],
    ]),
  );
  await service.log('consumer.dead_letter', (record) => record.topic === 'memory.wal');
  const rows = await harness.rows();
  expect(rows.find(({ memory_id: id }) => id === before)).toMatchObject({ version: 1, deleted_at: null });
});

test('job-worker has it compacted in pieces', async () => {
  const done = await harness.compact(100);
  expect(done).toMatchObject({ owner: 'memory-replicator', task: 'memory_compaction', more: false });
  expect(done.detail).toMatchObject({ deleted: 0, folded: 0, bytes: 0 });
});

test('the lag is 0 when all is replicated', async () => {
  await waitFor(
    () => service.metric('memory_wal_lag_seconds'),
    (seconds) => seconds === 0,
    { label: 'a lag of 0' },
  );
});
