import type { StreamPosition } from '@signalbox/api/stream-id';
import { fault } from '@signalbox/faults/fault';
import { silentLog } from '@signalbox/telemetry/silent';
import { expect, it } from 'vitest';
import { type BootTable, bootTable } from '../test/boot-table.ts';
import { createPartitionRebuild, type PartitionRebuild } from './partition-rebuild.ts';

function owner(table: BootTable, log = { from: 4n, end: 9n }) {
  const seeks: number[] = [];
  const notAfter: (bigint | undefined)[] = [];
  const rebuild = createPartitionRebuild({
    streams: table.streams,
    log: {
      seekBack: async (partition, _seconds, missing) => {
        seeks.push(partition);
        notAfter.push(missing);
        return log;
      },
    },
    rebuildSeconds: 900,
    epoch: 1,
    logger: silentLog,
    onRebuild: () => undefined,
  });
  return { rebuild, seeks, notAfter, log };
}

const at = (position: bigint) => ({ epoch: 1, position });
const standing = (boot: string, reached?: StreamPosition) => ({ boot, reached });
const again = { code: 'REDIS_UNAVAILABLE', retryable: true };

const bootFor = async (rebuild: PartitionRebuild) => (await rebuild.footing(0, 0n)).boot;

it('appends at once where Redis is whole', async () => {
  const table = bootTable();
  table.boot.set(0, 'ready');
  const { rebuild, seeks } = owner(table);
  rebuild.assigned([0]);
  expect(await bootFor(rebuild)).toBe('ready');
  expect(seeks).toEqual([]);
});

it('goes back once, appends under its token, and is ready when it has passed the end of that moment', async () => {
  const table = bootTable();
  const { rebuild, seeks } = owner(table);
  rebuild.assigned([0]);
  await expect(bootFor(rebuild)).rejects.toMatchObject(again); // this batch will come again
  expect(seeks).toEqual([0]);
  const token = await bootFor(rebuild);
  expect(token).toBe(table.boot.get(0));
  await rebuild.reached(0, standing(token), at(7n));
  expect(table.boot.get(0)).toBe(token);
  await rebuild.reached(0, standing(token), at(8n));
  expect(table.boot.get(0)).toBe('ready');
  expect(table.reached.get(0)).toEqual(at(8n));
  expect(await bootFor(rebuild)).toBe('ready');
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
  await bootFor(rebuild).catch(() => undefined);
  const first = table.boot.get(0);
  table.boot.clear();
  await rebuild.reached(0, standing(first ?? ''), at(8n)); // all read, but what was appended before is gone
  expect(table.boot.get(0)).toBeUndefined();
  await expect(bootFor(rebuild)).rejects.toMatchObject(again);
  expect(table.boot.get(0)).not.toBe(first);
  expect(seeks).toEqual([0, 0]);
});

it('takes over from an owner that died in the middle of a rebuild', async () => {
  const table = bootTable();
  const dead = owner(table);
  dead.rebuild.assigned([0]);
  await bootFor(dead.rebuild).catch(() => undefined);
  const token = await bootFor(dead.rebuild);
  const heir = owner(table);
  heir.rebuild.assigned([0]);
  await expect(bootFor(heir.rebuild)).rejects.toMatchObject(again);
  expect(heir.seeks).toEqual([0]);
  await dead.rebuild.reached(0, standing(token), at(8n)); // it was only slow: its token is gone, it marks nothing
  expect(table.boot.get(0)).not.toBe('ready');
  await heir.rebuild.reached(0, await heir.rebuild.footing(0, 4n), at(8n));
  expect(table.boot.get(0)).toBe('ready');
});

it('goes back when the append script found the key missing, and only where another has not repaired it', async () => {
  const table = bootTable();
  table.boot.set(0, 'ready');
  const { rebuild, seeks } = owner(table);
  rebuild.assigned([0]);
  await bootFor(rebuild);
  table.boot.delete(0);
  await expect(rebuild.lost(0, standing('ready'))).rejects.toMatchObject(again);
  expect(seeks).toEqual([0]);
  const token = await bootFor(rebuild);
  table.boot.set(0, 'ready');
  await expect(rebuild.lost(0, standing(token))).rejects.toMatchObject(again);
  expect(seeks).toEqual([0]);
  expect(await bootFor(rebuild)).toBe('ready');
});

it.each([
  ['the boot value', 'standingOf'],
  ['the token', 'markBoot'],
  ['the log', 'seekBack'],
] as const)('looks after no partition that was revoked while it waited for %s', async (_, call) => {
  const table = bootTable();
  if (call === 'standingOf') table.boot.set(0, 'ready');
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
      standingOf: (partition) => hold('standingOf').then(() => table.streams.standingOf(partition)),
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
  const batch = bootFor(rebuild).catch(() => undefined);
  await waits;
  rebuild.revoked([0]);
  letGo();
  await batch;
  expect(rebuild.rebuilding).toBe(0);
  const seeksBefore = seeks;
  table.boot.set(0, 'token of the owner');
  await rebuild.check();
  await expect(bootFor(rebuild)).rejects.toMatchObject(again);
  await expect(rebuild.lost(0, standing('ready'))).rejects.toMatchObject(again);
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
      async standingOf(partition) {
        const read = await table.streams.standingOf(partition);
        if (++reads === 1) await held;
        return read;
      },
    },
  });
  rebuild.assigned([0]);
  const batch = bootFor(rebuild);
  rebuild.revoked([0]);
  rebuild.assigned([0]);
  table.boot.clear(); // emptied after the read that is under way
  letGo();
  await batch;
  expect(rebuild.rebuilding).toBe(1);
  await expect(bootFor(rebuild)).rejects.toMatchObject(again);
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
  await expect(bootFor(rebuild)).rejects.toMatchObject({ code: 'KAFKA_UNAVAILABLE' });
  expect(table.boot.get(0)).toBe('token of the owner');
});

it('finds data that is older than what its own last append has reached, without any record coming', async () => {
  const table = bootTable();
  table.boot.set(0, 'ready');
  const { rebuild, seeks, notAfter } = owner(table);
  rebuild.assigned([0]);
  const footing = await rebuild.footing(0, 0n);
  await table.streams.append(0, footing, [], at(33n));
  await rebuild.reached(0, footing, at(33n));
  await rebuild.check();
  expect(seeks).toEqual([]);
  table.reached.set(0, at(30n)); // started again from a snapshot
  await rebuild.check();
  expect(seeks).toEqual([0]);
  expect(notAfter).toEqual([31n]); // however old that is
  expect(table.reached.has(0)).toBe(false);
  const token = await rebuild.footing(0, 4n);
  expect(token).toEqual(standing(table.boot.get(0) ?? '', undefined));
});

it('finds data that is older than what the group has finished, when it is given its first record', async () => {
  const table = bootTable();
  table.boot.set(0, 'ready');
  table.reached.set(0, at(30n));
  const heir = owner(table);
  heir.rebuild.assigned([0]);
  await expect(heir.rebuild.footing(0, 34n)).rejects.toMatchObject(again);
  expect(heir.seeks).toEqual([0]);

  table.boot.set(0, 'ready');
  table.reached.set(0, at(33n));
  const other = owner(table);
  other.rebuild.assigned([0]);
  await other.rebuild.check(); // looks before the record comes, when nothing is known
  expect(await other.rebuild.footing(0, 34n)).toEqual(standing('ready', at(33n)));
  expect(other.seeks).toEqual([]);
  table.reached.set(0, at(30n));
  expect(await table.streams.append(0, await other.rebuild.footing(0, 34n), [], at(34n))).toBe(false);
  await expect(other.rebuild.lost(0, standing('ready', at(33n)))).rejects.toMatchObject(again);
  expect(other.seeks).toEqual([0]);
});

it('begins a rebuild anew when Redis goes back in the middle of it, its token included', async () => {
  const table = bootTable();
  const { rebuild, seeks } = owner(table);
  rebuild.assigned([0]);
  await rebuild.check();
  const footing = await rebuild.footing(0, 4n);
  await table.streams.append(0, footing, [], at(6n));
  await rebuild.reached(0, footing, at(6n));
  table.reached.set(0, at(5n));
  const next = await rebuild.footing(0, 7n);
  expect(await table.streams.append(0, next, [], at(7n))).toBe(false);
  await expect(rebuild.lost(0, next)).rejects.toMatchObject(again);
  expect(seeks).toEqual([0, 0]);
  expect(table.boot.get(0)).not.toBe(footing.boot);
});
