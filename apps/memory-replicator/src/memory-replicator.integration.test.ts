import { newId } from '@signalbox/contracts/ids';
import type { SpawnedService } from '@signalbox/testkit/service';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, startHarness } from '../test/replicator-harness.ts';

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
