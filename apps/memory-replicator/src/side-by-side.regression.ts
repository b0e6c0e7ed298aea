import { newId } from '@signalbox/contracts/ids';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import { waitFor } from '@signalbox/testkit/wait';
import { expect, test } from 'vitest';
import { intakeRecord, openReplica, type Replica } from '../test/replica.ts';

const partitions = 3;
const rebuildsWanted = 6;
const noId = '00000000-0000-0000-0000-000000000000';

interface Known {
  readonly partition: number;
  version: number;
  deleted: boolean;
  text: string;
}

/** A log of memories of one tenant: their versions in order, each memory in one partition. */
function memoryLog() {
  const logs: IntakeRecord[][] = Array.from({ length: partitions }, () => []);
  const memories = new Map<string, Known>();
  const ids: string[] = [];
  const any = (below: number) => Math.floor(Math.random() * below);
  function write(): void {
    const known = Math.random() < 0.5 ? ids[any(ids.length)] : undefined;
    const id = known ?? newId();
    if (known === undefined) ids.push(id);
    const memory = memories.get(id) ?? { partition: any(partitions), version: 0, deleted: false, text: '' };
    if (memory.deleted) return;
    memory.version += 1;
    memory.deleted = Math.random() < 0.3;
    memory.text = `text ${id} ${memory.version}`;
    memories.set(id, memory);
    const { version, text } = memory;
    logs[memory.partition]?.push(
      intakeRecord({ memoryId: id, version, ...(memory.deleted ? { deletedAt: new Date() } : { text }) }),
    );
  }
  return { logs, memories, write, any };
}

type Log = ReturnType<typeof memoryLog>;

/** Rows of a query, each as one text, in order. */
async function listed(replica: Replica, query: string): Promise<string[]> {
  const rows = await replica.database.query<{ row: string }>(query);
  return rows.map(({ row }) => row).sort();
}

async function rebuild(replica: Replica, logs: Log['logs']): Promise<boolean> {
  const owner = newId();
  const ask = async (call: string, values: unknown[]) =>
    (await replica.own.query<{ yes: boolean }>(`select memory_replicator.${call} as yes`, values))[0]?.yes;
  if ((await ask('rebuild_begin($1, 30000)', [owner])) !== true) return false;
  const ends = logs.map(({ length }) => length);
  for (const [partition, end] of ends.entries()) {
    for (let at = 0; at < end; at += 300) {
      await replica.store.take(logs[partition]?.slice(at, Math.min(end, at + 300)) ?? [], owner);
      await ask('rebuild_hold($1, 30000)', [owner]);
    }
  }
  const switched = await ask('rebuild_switch($1)', [owner]);
  await replica.own.query('select memory_replicator.rebuild_end($1)', [owner]);
  return switched === true;
}

test('intakes, compaction, the index, rebuilds and questions side by side: none waits for another in a ring, and nothing is lost or comes back', async () => {
  const replica = await openReplica();
  const log = memoryLog();
  const { logs, memories, any } = log;
  const taken = logs.map(() => 0);
  let going = true;
  let switches = 0;
  let removed = 0;

  async function intake(partition: number): Promise<void> {
    const own = logs[partition] ?? [];
    for (;;) {
      for (let count = 0; going && count < 20; count += 1) log.write();
      const from = taken[partition] ?? 0;
      const to = Math.min(own.length, from + 1 + any(200));
      if (to === from && !going) return;
      // Some come again.
      await replica.store.take(own.slice(Math.max(0, from - any(60)), to));
      taken[partition] = to;
    }
  }
  async function compact(): Promise<void> {
    let [tenant, after] = ['', noId];
    while (going) {
      const [piece] = await replica.own.query<{
        looked_at: number;
        deleted: number;
        last_tenant: string;
        last_id: string;
      }>(`select * from memory_replicator.compact($1, $2, 100, now() + interval '9 days', '8 days')`, [
        tenant,
        after,
      ]);
      removed += piece?.deleted ?? 0;
      [tenant, after] = piece?.looked_at === 100 ? [piece.last_tenant, piece.last_id] : ['', noId];
    }
  }
  const reindexed = async () =>
    (await replica.own.query<{ more: boolean }>('select memory_replicator.reindex_some(200) as more'))[0]
      ?.more === true;
  async function index(): Promise<void> {
    while (going || (await reindexed())) {
      await replica.index();
      await reindexed();
    }
    await replica.index();
  }
  async function rebuilds(): Promise<void> {
    while (going) if (await rebuild(replica, logs)) switches += 1;
  }
  async function questions(): Promise<void> {
    while (going) {
      const page = await replica.store.page('acme', { limit: 5 }, 5_000);
      if ((taken[0] ?? 0) > 500) expect(page.memories.length).toBeGreaterThan(0);
      await replica.texts(page.memories[0]?.text ?? 'text');
    }
  }

  const running = Promise.all([...logs.keys()].map(intake).concat(compact(), rebuilds(), questions()));
  const indexing = index();
  await Promise.race([
    waitFor(
      () => switches,
      (count) => count >= rebuildsWanted && removed > 100,
      { timeoutMs: 90_000, label: 'rebuilds and compaction' },
    ),
    running,
    indexing,
  ]);
  going = false;
  await running;
  await indexing;

  const shown = [...memories].filter(([, { deleted }]) => !deleted);
  expect(
    await listed(
      replica,
      `select memory_id || ' ' || version || ' ' || body as row from memory_replicator.memories
       where copy = (select live from memory_replicator.copies) and deleted_at is null`,
    ),
  ).toEqual(shown.map(([id, { version, text }]) => `${id} ${version} ${text}`).sort());
  expect(
    await listed(replica, `select memory_id || ' ' || version as row from memory_replicator.search`),
  ).toEqual(shown.map(([id, { version }]) => `${id} ${version}`).sort());
  await replica.close();
}, 180_000);
