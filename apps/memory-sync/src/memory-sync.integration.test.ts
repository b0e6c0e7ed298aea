import { newId } from '@signalbox/contracts/ids';
import { openAsker } from '@signalbox/messaging/asker';
import { askUpkeep } from '@signalbox/messaging/upkeep';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Harness, memory, startHarness, tenant } from '../test/sync-harness.ts';

let harness: Harness;
let replicas: SpawnedService[] = [];
/** Sends what a replica has put behind rows of another. */
let relay: SpawnedService;

beforeAll(async () => {
  harness = await startHarness();
  [relay, ...replicas] = await Promise.all([
    spawnService('outbox-sync', harness.env),
    harness.start(),
    harness.start(),
  ]);
});
afterAll(async () => {
  await Promise.all([relay, ...replicas].map((each) => each?.[Symbol.asyncDispose]()));
  await harness?.close();
});

const duplicates = async () => {
  const name = 'inbox_duplicates_total';
  const counts = await Promise.all(replicas.map((each) => each.metric(name)));
  return counts.reduce<number>((sum, each) => sum + (each ?? 0), 0);
};

describe('without a memory backend, on two replicas', () => {
  test('a memory becomes version 1 and a record of memory.wal that says what was written', async () => {
    const session = newId();
    const item = memory('the sky is blue', {
      ...{ session_id: session, turn_id: newId(), persona_id: 'guide', role: 'user' },
      metadata: { source: 'turn' },
    });
    await harness.write([item], { keyId: session });
    expect(await harness.inWal(item.memory_id, [1])).toEqual([1]);
    const record = harness.wal.find(({ key }) => key === `${tenant}:${item.memory_id}`);
    const { idempotency_key: _, ...said } = item;
    expect(record?.value).toEqual({ ...said, version: 1, stored_at: expect.any(String) });
    expect(record?.headers).toMatchObject({
      tenant_id: tenant,
      session_id: session,
      event_type: 'memory.stored',
    });
  });

  test('each is stored once, whatever comes again: the record, another record under its key, on any replica', async () => {
    const before = await duplicates();
    const items = Array.from({ length: 40 }, (_, at) => memory(`repeated ${at}`));
    for (const keyId of [newId(), newId(), newId()]) {
      for (const item of items) await harness.write([item], { keyId: keyId });
    }
    await harness.write(items);
    for (const item of items) expect(await harness.inWal(item.memory_id, [1])).toEqual([1]);
    await waitFor(duplicates, (count) => count - before >= 120, {
      label: 'three repeats of each are counted',
    });
    expect(await duplicates()).toBe(before + 120);
    for (const item of items) {
      expect(harness.versions(item.memory_id)).toEqual([1]);
      expect(await harness.states(item.memory_id)).toMatchObject([{ version: 1, state: 'stored' }]);
    }
  });

  test('another key under the same memory is its next version, and the text of the one before goes', async () => {
    const first = memory('I live in Bern');
    await harness.write([first]);
    const moved = ['I live in Basel', 'I live in Chur'].map((text) =>
      memory(text, { memory_id: first.memory_id }),
    );
    await harness.write(moved);
    await harness.inWal(first.memory_id, [1, 2, 3]);
    await harness.forget(first.memory_id);
    await harness.forget(first.memory_id);
    await harness.write([memory('I live again', { memory_id: first.memory_id })]);
    const last = memory('after all of it');
    await harness.write([last], { keyId: first.memory_id });
    await harness.inWal(last.memory_id, [1]);
    expect(harness.versions(first.memory_id)).toEqual([1, 2, 3, 4]);
    expect(harness.wal.findLast(({ key }) => key.endsWith(first.memory_id))?.eventType).toBe(
      'memory.deleted',
    );
    expect(await harness.states(first.memory_id)).toMatchObject([
      ...[1, 2, 3].map((version) => ({ version, state: 'superseded' })),
      { version: 4, state: 'stored', deleted: true },
    ]);
    const texts = await harness.database.query(
      'select 1 from memory_sync.memories where memory_id = $1 and value is not null',
      [first.memory_id],
    );
    expect(texts).toEqual([]);
  });

  test('versions of one batch follow each other, and a delete in it is the last', async () => {
    const first = memory('one');
    const item = (text: string) => memory(text, { memory_id: first.memory_id });
    await harness.write([first, item('two'), item('three')]);
    await harness.forget(first.memory_id);
    await harness.inWal(first.memory_id, [1, 2, 3, 4]);
    expect(harness.versions(first.memory_id)).toEqual([1, 2, 3, 4]);
  });

  test('a delete that overtakes its write wins, and so does a later version that overtakes the first', async () => {
    const overtaken = memory('never seen');
    await harness.forget(overtaken.memory_id);
    await harness.inWal(overtaken.memory_id, [1]);
    const replaced = memory('first words');
    await harness.write([memory('last words', { memory_id: replaced.memory_id })]);
    await harness.inWal(replaced.memory_id, [1]);
    const after = memory('after both');
    await harness.write([overtaken, replaced, after]);
    await harness.inWal(after.memory_id, [1]);
    expect(harness.versions(overtaken.memory_id)).toEqual([1]);
    expect(harness.versions(replaced.memory_id)).toEqual([1]);
    expect(harness.wal.find(({ key }) => key.endsWith(replaced.memory_id))?.value).toMatchObject({
      text: 'last words',
    });
  });

  test('versions of one memory that come to two replicas at once rise by one, each in memory.wal after the one before', async () => {
    const first = memory('contended');
    await harness.write([first]);
    await harness.inWal(first.memory_id, [1]);
    const keys = Array.from({ length: 12 }, newId);
    await Promise.all(
      Array.from({ length: 48 }, (_, at) =>
        harness.write([memory(`contended ${at}`, { memory_id: first.memory_id })], {
          keyId: keys[at % 12] ?? '',
        }),
      ),
    );
    const all = Array.from({ length: 49 }, (_, at) => at + 1);
    expect(await harness.inWal(first.memory_id, all)).toEqual(all);
  });

  test('two tenants with the same memory are apart', async () => {
    const item = memory('ours');
    const theirs = { ...memory('theirs', { tenant: 'globex' }), memory_id: item.memory_id };
    await harness.write([item]);
    await harness.write([theirs], { tenant: 'globex' });
    await harness.forget(item.memory_id);
    expect(await harness.inWal(item.memory_id, [1, 2])).toEqual([1, 2]);
    expect(await harness.inWal(item.memory_id, [1], 'globex')).toEqual([1]);
    expect(await harness.states(item.memory_id, 'globex')).toMatchObject([
      { state: 'stored', deleted: false },
    ]);
  });

  test('records with more memories than one transaction may hold are stored all the same', async () => {
    const keyId = newId();
    const records = Array.from({ length: 12 }, (_, of) =>
      Array.from({ length: 64 }, (_, at) => memory(`many ${of} ${at}`)),
    );
    await Promise.all(records.map((items) => harness.write(items, { keyId })));
    for (const item of records.flat()) expect(await harness.inWal(item.memory_id, [1])).toEqual([1]);
  });

  test('poison becomes a dead letter, and its neighbours are stored', async () => {
    const keyId = newId();
    const before = memory('before the poison');
    const after = memory('after the poison');
    await harness.write([before], { keyId });
    await harness.write([{ ...memory('poison'), text: 'nul \u0000 in it' }], { keyId });
    await harness.write([after], { keyId });
    expect(await harness.inWal(before.memory_id, [1])).toEqual([1]);
    expect(await harness.inWal(after.memory_id, [1])).toEqual([1]);
    const letters = await harness.database.query<{ topic: string }>(
      'select topic from messaging.dead_letters',
    );
    expect(letters).toEqual([{ topic: 'memory.writes' }]);
  });

  test('upkeep is done when job-worker asks for it', async () => {
    const first = memory('kept for a while');
    await harness.write([first, memory('and replaced', { memory_id: first.memory_id })]);
    await harness.inWal(first.memory_id, [1, 2]);
    await harness.database.query(
      "update memory_sync.memories set superseded_at = superseded_at - interval '9 days' where memory_id = $1",
      [first.memory_id],
    );
    const asker = openAsker({
      ...{ messaging: harness.messaging, service: 'test', log: silentLog, metrics: silentMetrics },
      ...{ requests: 'jobs.commands', results: 'jobs.results' },
    });
    await waitFor(
      () => asker.ready(),
      (ready) => ready,
    );
    for (const [task, done] of [
      ['superseded', 1],
      ['work_rows', 0],
      ['stale_lanes', 0],
    ] as const) {
      expect(
        await askUpkeep(asker, { owner: 'memory-sync', task, limit: 10, deadlineMs: 5_000 }),
      ).toMatchObject({
        ...{ task, done, more: false },
      });
    }
    expect(await harness.states(first.memory_id)).toMatchObject([{ version: 2 }]);
  });
});
