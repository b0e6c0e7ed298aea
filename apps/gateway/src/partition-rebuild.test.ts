import { silentLog } from '@signalbox/telemetry/silent';
import { expect, it } from 'vitest';
import { createPartitionRebuild } from './partition-rebuild.ts';
import type { StreamPosition } from './stream-id.ts';

/** `stream:boot` and `stream:reached`, as the scripts treat them. */
function bootTable() {
  const boot = new Map<number, string>();
  const reached = new Map<number, StreamPosition>();
  return {
    boot,
    reached,
    streams: {
      bootOf: async (partition: number) => boot.get(partition) ?? '',
      markBoot: async (partition: number, from: string, to: string) => {
        if ((boot.get(partition) ?? '') !== from) return false;
        boot.set(partition, to);
        return true;
      },
      markReached: async (partition: number, at: StreamPosition) => void reached.set(partition, at),
    },
  };
}

function owner(table: ReturnType<typeof bootTable>, log = { from: 4n, end: 9n }) {
  const seeks: number[] = [];
  const rebuild = createPartitionRebuild({
    streams: table.streams,
    log: {
      seekBack: async (partition) => {
        seeks.push(partition);
        return log;
      },
    },
    rebuildSeconds: 900,
    epoch: 1,
    logger: silentLog,
    onRebuild: () => undefined,
  });
  return { rebuild, seeks, log };
}

const at = (position: bigint) => ({ epoch: 1, position });

it('appends at once where Redis is whole', async () => {
  const table = bootTable();
  table.boot.set(0, 'ready');
  const { rebuild, seeks } = owner(table);
  rebuild.assigned([0]);
  expect(await rebuild.bootFor(0)).toBe('ready');
  expect(seeks).toEqual([]);
});

it('goes back once, appends under its token, and is ready when it has passed the end of that moment', async () => {
  const table = bootTable();
  const { rebuild, seeks } = owner(table);
  rebuild.assigned([0]);
  expect(await rebuild.bootFor(0)).toBeUndefined(); // this batch will come again
  expect(seeks).toEqual([0]);
  const token = await rebuild.bootFor(0);
  expect(token).toBe(table.boot.get(0));
  await rebuild.reached(0, at(7n));
  expect(table.boot.get(0)).toBe(token);
  await rebuild.reached(0, at(8n));
  expect(table.boot.get(0)).toBe('ready');
  expect(table.reached.get(0)).toEqual(at(8n));
  expect(await rebuild.bootFor(0)).toBe('ready');
});

it('is ready at once when the log has nothing to append again', async () => {
  const table = bootTable();
  const { rebuild } = owner(table, { from: 9n, end: 9n });
  rebuild.assigned([0]);
  await rebuild.check();
  expect(table.boot.get(0)).toBe('ready');
  expect(table.reached.get(0)).toEqual(at(8n));
  expect(rebuild.rebuilding).toBe(0);
});

it('finds an emptied Redis without any record coming', async () => {
  const table = bootTable();
  table.boot.set(0, 'ready').set(1, 'ready');
  const { rebuild, seeks } = owner(table);
  rebuild.assigned([0, 1]);
  await rebuild.check();
  table.boot.clear();
  await rebuild.check();
  expect(seeks).toEqual([0, 1]);
  expect(rebuild.rebuilding).toBe(2);
});

it('starts anew when Redis is emptied during a rebuild', async () => {
  const table = bootTable();
  const { rebuild, seeks } = owner(table);
  rebuild.assigned([0]);
  await rebuild.bootFor(0);
  const first = table.boot.get(0);
  table.boot.clear();
  await rebuild.reached(0, at(8n)); // all read, but what was appended before is gone
  expect(table.boot.get(0)).toBeUndefined();
  expect(await rebuild.bootFor(0)).toBeUndefined();
  expect(table.boot.get(0)).not.toBe(first);
  expect(seeks).toEqual([0, 0]);
});

it('takes over from an owner that died in the middle of a rebuild', async () => {
  const table = bootTable();
  const dead = owner(table);
  dead.rebuild.assigned([0]);
  await dead.rebuild.bootFor(0);
  const heir = owner(table);
  heir.rebuild.assigned([0]);
  expect(await heir.rebuild.bootFor(0)).toBeUndefined();
  expect(heir.seeks).toEqual([0]);
  await dead.rebuild.reached(0, at(8n)); // it was only slow: its token is gone, it marks nothing
  expect(table.boot.get(0)).not.toBe('ready');
  await heir.rebuild.reached(0, at(8n));
  expect(table.boot.get(0)).toBe('ready');
});

it('goes back when the append script found the key missing, and only where another has not repaired it', async () => {
  const table = bootTable();
  table.boot.set(0, 'ready');
  const { rebuild, seeks } = owner(table);
  rebuild.assigned([0]);
  await rebuild.bootFor(0);
  table.boot.delete(0);
  await rebuild.lost(0);
  expect(seeks).toEqual([0]);
  table.boot.set(0, 'ready');
  await rebuild.lost(0);
  expect(seeks).toEqual([0]);
  expect(await rebuild.bootFor(0)).toBe('ready');
});
