import { newId } from '@signalbox/contracts/ids';
import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, memory, startHarness, tenant } from '../test/sync-harness.ts';

let harness: Harness;
/** Sends what a dead replica has left. */
let relay: SpawnedService;

beforeAll(async () => {
  harness = await startHarness();
  relay = await spawnService('outbox-sync', harness.env);
});
afterAll(async () => {
  await relay?.[Symbol.asyncDispose]();
  await harness?.close();
});

test.each([
  ['intake.committed', 'SIGKILL'],
  ['outbox.committed', 'SIGKILL'],
  ['outbox.published', 'SIGKILL'],
  ['intake.committed', 'SIGSTOP'],
] as const)(
  'ended at %s by %s: another replica goes on, each version is once in memory.wal and in order',
  async (point, signal) => {
    await using first = await harness.start({ FAIL_POINT: `${point}:2:${signal}` });
    const items = Array.from({ length: 60 }, (_, at) => memory(`${point} ${signal} ${at}`));
    const sessions = Array.from({ length: 6 }, newId);
    const write = (text: string) =>
      Promise.all(
        items.map((item, at) =>
          harness.write([text === '' ? item : memory(`${text} ${at}`, { memory_id: item.memory_id })], {
            keyId: sessions[at % 6] ?? '',
          }),
        ),
      );
    await write('');
    await write(`${point} ${signal} again`);
    await first.log('fail_point.reached');
    await using _ = await harness.start();
    const last = memory(`${point} ${signal} behind`);
    await harness.write([last]);
    for (const { memory_id } of items) {
      expect(await harness.inWal(memory_id, [1, 2], tenant, 40_000)).toEqual([1, 2]);
    }
    if (signal === 'SIGSTOP') {
      first.kill('SIGCONT');
      await first.ready();
    }
    await harness.inWal(last.memory_id, [1], tenant, 20_000);
    for (const { memory_id } of items) expect(harness.versions(memory_id)).toEqual([1, 2]);
  },
  120_000,
);
