import { fault } from '@signalbox/faults/fault';
import { silentLog } from '@signalbox/telemetry/silent';
import { expect, it } from 'vitest';
import { type BootTable, bootTable } from '../test/boot-table.ts';
import { createPartitionRebuild } from './partition-rebuild.ts';

function owner(table: BootTable, log = { from: 4n, end: 9n }) {
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
const again = { code: 'REDIS_UNAVAILABLE', retryable: true };

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
  await expect(rebuild.bootFor(0)).rejects.toMatchObject(again); // this batch will come again
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
  await rebuild.bootFor(0).catch(() => undefined);
  const first = table.boot.get(0);
  table.boot.clear();
  await rebuild.reached(0, at(8n)); // all read, but what was appended before is gone
  expect(table.boot.get(0)).toBeUndefined();
  await expect(rebuild.bootFor(0)).rejects.toMatchObject(again);
  expect(table.boot.get(0)).not.toBe(first);
  expect(seeks).toEqual([0, 0]);
});

it('takes over from an owner that died in the middle of a rebuild', async () => {
  const table = bootTable();
  const dead = owner(table);
  dead.rebuild.assigned([0]);
  await dead.rebuild.bootFor(0).catch(() => undefined);
  const heir = owner(table);
  heir.rebuild.assigned([0]);
  await expect(heir.rebuild.bootFor(0)).rejects.toMatchObject(again);
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
  await expect(rebuild.lost(0, 'ready')).rejects.toMatchObject(again);
  expect(seeks).toEqual([0]);
  const token = await rebuild.bootFor(0);
  table.boot.set(0, 'ready');
  await expect(rebuild.lost(0, token)).rejects.toMatchObject(again);
  expect(seeks).toEqual([0]);
  expect(await rebuild.bootFor(0)).toBe('ready');
});

it.each([
  ['the boot value', 'bootOf'],
  ['the token', 'markBoot'],
  ['the log', 'seekBack'],
] as const)('looks after no partition that was revoked while it waited for %s', async (_, call) => {
  const table = bootTable();
  if (call === 'bootOf') table.boot.set(0, 'ready');
  const { promise: held, resolve: letGo } = Promise.withResolvers<void>();
  const { promise: waits, resolve: called } = Promise.withResolvers<void>();
  const hold = async (here: string) => {
    if (here !== call) return;
    called();
    await held;
  };
  let seeks = 0;
  const rebuild = createPartitionRebuild({
    streams: {
      ...table.streams,
      bootOf: (partition) => hold('bootOf').then(() => table.streams.bootOf(partition)),
      markBoot: (...args) => hold('markBoot').then(() => table.streams.markBoot(...args)),
    },
    log: {
      async seekBack() {
        seeks += 1;
        await hold('seekBack');
        return { from: 4n, end: 9n };
      },
    },
    rebuildSeconds: 900,
    epoch: 1,
    logger: silentLog,
    onRebuild: () => undefined,
  });
  rebuild.assigned([0]);
  const batch = rebuild.bootFor(0).catch(() => undefined);
  await waits;
  rebuild.revoked([0]);
  letGo();
  await batch;
  expect(rebuild.rebuilding).toBe(0);
  const seeksBefore = seeks;
  table.boot.set(0, 'token of the owner');
  await rebuild.check();
  await expect(rebuild.bootFor(0)).rejects.toMatchObject(again);
  await expect(rebuild.lost(0, 'ready')).rejects.toMatchObject(again);
  expect([table.boot.get(0), seeks]).toEqual(['token of the owner', seeksBefore]);
});

it('does not let an earlier assignment speak for the one it has now', async () => {
  const table = bootTable();
  table.boot.set(0, 'ready');
  const { promise: held, resolve: letGo } = Promise.withResolvers<void>();
  let reads = 0;
  const { rebuild } = owner({
    ...table,
    streams: {
      ...table.streams,
      async bootOf(partition) {
        const standing = await table.streams.bootOf(partition);
        if (++reads === 1) await held;
        return standing;
      },
    },
  });
  rebuild.assigned([0]);
  const batch = rebuild.bootFor(0);
  rebuild.revoked([0]);
  rebuild.assigned([0]);
  table.boot.clear(); // emptied after the read that is under way
  letGo();
  await batch;
  expect(rebuild.rebuilding).toBe(1);
  await expect(rebuild.bootFor(0)).rejects.toMatchObject(again);
});

it('takes the token away from nobody where the partition cannot be sought', async () => {
  const table = bootTable();
  table.boot.set(0, 'token of the owner');
  const rebuild = createPartitionRebuild({
    streams: table.streams,
    log: {
      async seekBack() {
        throw fault('KAFKA_UNAVAILABLE', 'not assigned here');
      },
    },
    rebuildSeconds: 900,
    epoch: 1,
    logger: silentLog,
    onRebuild: () => undefined,
  });
  rebuild.assigned([0]);
  await expect(rebuild.check()).rejects.toMatchObject({ code: 'KAFKA_UNAVAILABLE' });
  await expect(rebuild.bootFor(0)).rejects.toMatchObject({ code: 'KAFKA_UNAVAILABLE' });
  expect(table.boot.get(0)).toBe('token of the owner');
});
