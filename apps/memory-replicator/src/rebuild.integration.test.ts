import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import { silentLog } from '@signalbox/telemetry/silent';
import { launchService, type SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, startHarness, type WalRecord, walValue } from '../test/replicator-harness.ts';
import { rebuildReplica } from './rebuild-replica.ts';
import { replicaStore } from './replica-store.ts';

let harness: Harness;
let service: SpawnedService;
/** Highest version of each memory that was written. */
const written = new Map<string, number>();

beforeAll(async () => {
  harness = await startHarness();
  service = await harness.start();
});

afterAll(async () => {
  await service?.[Symbol.asyncDispose]();
  await harness?.close();
});

async function write(records: readonly WalRecord[]): Promise<void> {
  const ids = await harness.write(records);
  for (const [place, id] of ids.entries()) {
    written.set(id, Math.max(written.get(id) ?? 0, records[place]?.version ?? 1));
  }
}

const rebuild = (more: { owner?: string; leaseMs?: number; onProgress?: (records: number) => void } = {}) =>
  rebuildReplica({
    ...{ database: harness.own, store: replicaStore(harness.own, 1), settings: harness.settings },
    ...{ owner: newId(), signal: new AbortController().signal, log: silentLog },
    ...more,
  });

const wholeRows = () =>
  harness.database.query<Record<string, unknown>>(
    `select to_jsonb(m) - 'copy' as row from memory_replicator.memories m
     where copy = (select live from memory_replicator.copies) order by tenant, memory_id`,
  );
const live = async () =>
  (await harness.database.query<{ live: number }>('select live from memory_replicator.copies'))[0]?.live;

test('rebuilt from the topic it equals the live one, row by row and in every column', async () => {
  const ids = Array.from({ length: 600 }, () => newId());
  await write(
    ids.map((memoryId, place) => ({
      memoryId,
      version: 1 + (place % 4), // what compaction has left: the last version alone
      tenant: place % 3 === 0 ? 'globex' : 'acme',
      text: `number ${place} of them`,
      more:
        place % 5 === 0
          ? { metadata: { place }, expires_at: '2099-01-01T00:00:00Z', session_id: newId() }
          : {},
    })),
  );
  await write(
    ids.slice(0, 50).map((memoryId, place) => ({
      memoryId,
      version: 5,
      tenant: place % 3 === 0 ? 'globex' : 'acme',
      deletedAt: new Date(),
    })),
  );
  await harness.replicated(written);
  const before = await wholeRows();
  const was = await live();
  const { records, unreadable } = await rebuild();
  expect({ records, unreadable }).toEqual({ records: 650, unreadable: 0 });
  expect(await live()).not.toBe(was);
  expect(await wholeRows()).toEqual(before);
  await harness.indexed();
  expect((await harness.recall('number 551 of them')).at(0)?.text).toBe('number 551 of them');
});

test('what is written while it is under way is in the new copy too', async () => {
  let going = true;
  const writer = (async () => {
    for (let round = 1; going; round += 1) {
      const known = [...written].filter(([, version]) => version < 5).slice(0, 20);
      await write([
        ...Array.from({ length: 20 }, (_, place) => ({
          text: `round ${round} place ${place}`,
          tenant: 'initech',
        })),
        ...known.map(([memoryId, version]) => ({ memoryId, version: version + 1, tenant: 'initech' })),
      ]);
    }
  })();
  await waitFor(harness.rows, (rows) => rows.some((row) => row.tenant === 'initech'), {
    label: 'the writer',
  });
  await rebuild();
  await rebuild();
  going = false;
  await writer;
  const rows = await harness.replicated(written);
  // Keys are tenant and memory: those whose versions went on under another tenant are there twice.
  const versions = new Map<string, number>();
  for (const row of rows)
    versions.set(row.memory_id, Math.max(versions.get(row.memory_id) ?? 0, row.version));
  expect(versions).toEqual(written);
  const topic = new Set(written.keys());
  expect(rows.every(({ memory_id: id }) => topic.has(id))).toBe(true);
});

test('a second one is refused while the first is under way', async () => {
  const begun = Promise.withResolvers<void>();
  const first = rebuild({ onProgress: () => begun.resolve() });
  await begun.promise;
  await expect(rebuild()).rejects.toMatchObject({ code: 'CONFLICT' });
  await first;
});

test('one that was killed half-way is begun anew, and the live copy was never touched', async () => {
  const before = await wholeRows();
  const was = await live();
  const entry = new URL('./rebuild-main.ts', import.meta.url);
  const killed = launchService(
    'memory-rebuild',
    { ...harness.env, FAIL_POINT: 'intake.committed:2' },
    { entry },
  );
  expect((await killed.exited).signal).toBe('SIGKILL');
  expect(await live()).toBe(was);
  expect(await wholeRows()).toEqual(before);
  await harness.database.query(`update memory_replicator.copies set rebuild_until = now() - interval '1 s'`);
  const again = launchService('memory-rebuild', harness.env, { entry });
  expect(await again.exited).toMatchObject({ code: 0 });
  expect(await live()).not.toBe(was);
  expect(await wholeRows()).toEqual(before);
});

test('one that stood still for longer than its lease switches nothing', async () => {
  const was = await live();
  const late = rebuild({
    onProgress: () =>
      void harness.database.query(
        `update memory_replicator.copies set rebuild_until = now() - interval '1 s'`,
      ),
  });
  await expect(late).rejects.toMatchObject({ code: 'LEASE_LOST' });
  expect(await live()).toBe(was);
});

test('a record that nobody can replicate is left out, as the intake has left it out', async () => {
  const { value } = walValue({ text: 'under the key of another' });
  await harness.messaging.producer.direct({
    topic: 'memory.wal',
    key: idKey('acme', newId()),
    headers: { tenant_id: 'acme', event_id: newId(), event_type: 'memory.stored', schema: 'memory.wal.v1' },
    value,
  });
  await write([{ text: 'behind it' }]);
  await harness.replicated(written);
  const before = await wholeRows();
  const was = await live();
  expect(await rebuild()).toMatchObject({ unreadable: 1 });
  expect(await live()).not.toBe(was);
  expect(await wholeRows()).toEqual(before);
});

test('a renewal that is late to commit leaves no intake behind that wrote to the live copy alone', async () => {
  const owner = newId();
  const ask = async <T>(call: string, values: unknown[] = []) =>
    (await harness.own.query<{ answer: T }>(`select memory_replicator.${call} as answer`, values))[0]?.answer;
  await waitFor(
    () => ask<boolean>('rebuild_begin($1, 300)', [owner]),
    (begun) => begun === true,
    { label: 'the lease of the rebuild before has lapsed' },
  );
  let intake: Promise<number[] | undefined> = Promise.resolve(undefined);
  await harness.own.transaction(async (tx) => {
    await tx.query('select memory_replicator.rebuild_hold($1, 60000)', [owner]);
    await waitFor(
      () =>
        harness.database.query<{ lapsed: boolean }>(
          'select rebuild_until < clock_timestamp() as lapsed from memory_replicator.copies',
        ),
      ([row]) => row?.lapsed === true,
      { label: 'the lease has lapsed for all who do not see the renewal' },
    );
    let answered = false;
    intake = ask<number[]>('copies_to_write(null)');
    void intake.finally(() => {
      answered = true;
    });
    await waitFor(
      () =>
        harness.database.query(`select 1 from pg_locks where locktype = 'advisory' and not granted
          and database = (select oid from pg_database where datname = current_database())`),
      (waits) => answered || waits.length > 0,
      { label: 'the intake has read the lease, or waits for the renewal' },
    );
  });
  expect(await intake).toHaveLength(2);
  expect(await ask('rebuild_switch($1)', [owner])).toBe(true);
  await ask('rebuild_end($1)', [owner]);
});
