import { newId } from '@signalbox/contracts/ids';
import type { UpkeepOutcome } from '@signalbox/messaging/upkeep';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openReplica, type Replica } from '../test/replica.ts';
import { compactMemories } from './compact-memories.ts';

let replica: Replica;

beforeAll(async () => {
  replica = await openReplica();
});

afterAll(async () => {
  await replica?.close();
});

const day = 86_400_000;
const ago = (days: number) => new Date(Date.now() - days * day);
const inDays = (days: number) => () => new Date(Date.now() + days * day);
const stop = new AbortController().signal;

const words = ['walnut', 'copper', 'lantern', 'meadow', 'harbour', 'violin', 'the', 'of', 'and', 'a'];

/** Memories of two tenants: some end, some are deleted, many say what others say. */
async function fill(): Promise<void> {
  for (const tenant of ['acme', 'globex']) {
    const records = Array.from({ length: 400 }, (_, place) => {
      const said = place % 150;
      const text = `${words[said % 7]} ${words[(said * 3) % 10]} of ${words[(said * 7) % 10]} number ${said}`;
      return {
        tenant,
        text: place % 3 === 0 ? `${text.toUpperCase()}!` : text,
        more: {
          occurred_at: ago(100 - place / 5).toISOString(),
          stored_at: ago(50).toISOString(),
          ...(place % 11 === 0 ? { expires_at: ago(place % 2 === 0 ? 20 : 2).toISOString() } : {}),
        },
      };
    });
    const ids = await replica.put(records);
    await replica.put(
      ids
        .filter((_, place) => place % 13 === 0)
        .map((memoryId, place) => ({
          tenant,
          memoryId,
          version: 2,
          deletedAt: ago(place % 2 === 0 ? 20 : 2),
        })),
    );
  }
}

/** What anybody can read: answers to many questions, and all pages. */
async function reads() {
  const answers: Record<string, readonly string[]> = {};
  for (const tenant of ['acme', 'globex']) {
    for (const word of words) {
      for (const query of [word, `${word} of the violin`, `number 7 ${word}`, `number 149 ${word} and a`]) {
        const found = await replica.store.recall(tenant, { query, limit: 50 }, 5_000);
        answers[`${tenant} ${query}`] = found.map(({ memory }) => `${memory.memory_id} ${memory.text}`);
      }
    }
    const page = await replica.store.page(tenant, { limit: 500 }, 5_000);
    answers[`${tenant} pages`] = page.memories.map((memory) => JSON.stringify(memory));
  }
  return answers;
}

const rows = async () =>
  (
    await replica.database.query<{ n: number }>('select count(*)::int as n from memory_replicator.memories')
  )[0]?.n ?? 0;

test('reads are equal before and after, also when it was stopped half-way, and it says what it saved', async () => {
  await fill();
  const before = await reads();
  const rowsBefore = await rows();
  const compact = compactMemories(replica.own);

  let outcome: UpkeepOutcome = { done: 0, more: true };
  const saved = { done: 0, deleted: 0, expired: 0, folded: 0, bytes: 0 };
  for (let piece = 0; outcome.more; piece += 1) {
    // Stopped after the fourth: what it had answered is lost, so the next one begins where that one did.
    const resume = piece === 4 ? { tenant: 'acme' } : outcome.resume;
    if (piece === 4) expect(await reads()).toEqual(before);
    outcome = await compact({ limit: 100, resume, signal: stop });
    saved.done += outcome.done;
    for (const each of ['deleted', 'expired', 'folded', 'bytes'] as const) {
      saved[each] += Number(outcome.detail?.[each]);
    }
  }
  expect(await reads()).toEqual(before);
  expect(saved.deleted).toBeGreaterThan(0);
  expect(saved.expired).toBeGreaterThan(0);
  expect(saved.folded).toBeGreaterThan(100);
  expect(saved.bytes).toBeGreaterThan(saved.done * 50);
  expect(saved.done).toBe(saved.deleted + saved.expired + saved.folded);
  expect(rowsBefore - (await rows())).toBe(saved.done);
});

test('a tombstone outlives what could bring its memory back, by eight days', async () => {
  const id = newId();
  await replica.put([{ memoryId: id, text: 'not to come back' }]);
  await replica.put([{ memoryId: id, version: 2, deletedAt: new Date() }]);
  const held = () =>
    replica.database.query('select 1 from memory_replicator.memories where memory_id = $1', [id]);
  const all = { limit: 10_000, resume: undefined, signal: stop };
  await compactMemories(replica.own, inDays(7.9))(all);
  expect(await held()).toHaveLength(1);
  await replica.put([{ memoryId: id, version: 1, text: 'not to come back' }]);
  expect(await replica.texts('come back')).toEqual([]);
  await compactMemories(replica.own, inDays(8.1))(all);
  expect(await held()).toHaveLength(0);
});

test('an older memory is not removed for a newer one that was deleted a moment ago', async () => {
  const tenant = 'initech';
  const stored_at = ago(50).toISOString();
  const [, newer = ''] = await replica.put([
    { tenant, text: 'the spare key', more: { stored_at, occurred_at: ago(50).toISOString() } },
    { tenant, text: 'The spare key.', more: { stored_at, occurred_at: ago(40).toISOString() } },
  ]);
  // Deleted, and not indexed yet: the older one is still marked as said again.
  await replica.database.query(
    `update memory_replicator.memories set version = 2, body = null, deleted_at = now() where memory_id = $1`,
    [newer],
  );
  await compactMemories(replica.own)({ limit: 10_000, resume: undefined, signal: stop });
  await replica.database.query(
    `insert into memory_replicator.to_index (tenant, memory_ids) values ($1, array[$2::uuid])`,
    [tenant, newer],
  );
  await replica.index();
  expect(await replica.texts('spare key', {}, tenant)).toEqual(['the spare key']);
});

test('with the last memory that holds a word the word goes, by deletion, by a new version and by compaction', async () => {
  const tenant = 'umbrella';
  const known = async () =>
    (
      await replica.database.query<{ word: string }>(
        `select word from memory_replicator.words where tenant = $1 and word <> '' order by word`,
        [tenant],
      )
    ).map(({ word }) => word);
  const gone = { occurred_at: ago(50).toISOString(), stored_at: ago(50).toISOString() };
  const [deleted = '', changed = ''] = await replica.put([
    { tenant, text: "the alarm code is o'hunter2\\ http://x.test/a'b?c=1 naïve" },
    { tenant, text: 'the garden gate stays locked' },
    { tenant, text: 'the parrot', more: { ...gone, expires_at: ago(20).toISOString() } },
  ]);
  await replica.put([
    { tenant, memoryId: deleted, version: 2, deletedAt: new Date() },
    { tenant, memoryId: changed, version: 2, text: 'the garden gate stands open' },
  ]);
  expect(await known()).toEqual(['garden', 'gate', 'open', 'parrot', 'stands', 'the']);
  await compactMemories(replica.own)({ limit: 10_000, resume: undefined, signal: stop });
  await replica.index();
  expect(await known()).toEqual(['garden', 'gate', 'open', 'stands', 'the']);
  expect(await replica.texts('garden', {}, tenant)).toEqual(['the garden gate stands open']);
});
