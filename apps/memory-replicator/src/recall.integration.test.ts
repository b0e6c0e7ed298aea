import { newId } from '@signalbox/contracts/ids';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { intakeRecord, openReplica, type Replica } from '../test/replica.ts';

let replica: Replica;

beforeAll(async () => {
  replica = await openReplica();
});

afterAll(async () => {
  await replica?.close();
});

/** Tests share a database: each has a tenant of its own. */
let tenants = 0;
function newTenant(): string {
  tenants += 1;
  return `tenant-${tenants}`;
}

const daysAgo = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString();

test('rare words count for more than common ones', async () => {
  const tenant = newTenant();
  await replica.put([
    ...Array.from({ length: 40 }, (_, place) => ({
      tenant,
      text: `the report number ${place} is in the archive`,
    })),
    { tenant, text: 'the giraffe report' },
  ]);
  expect((await replica.texts('the report of the giraffe', {}, tenant))[0]).toBe('the giraffe report');
});

test('rare words count for more where there are few memories too, whichever of them are counted', async () => {
  for (const digit of ['0', '1']) {
    const tenant = newTenant();
    const counted = `${newId().slice(0, -1)}${digit}`;
    await replica.put([
      { tenant, memoryId: counted, text: 'The blue bicycle stands in the cellar of the office.' },
      { tenant, text: 'Lunch is at noon.' },
      { tenant, text: 'The lamp is green.' },
    ]);
    expect((await replica.texts('where is the bicycle?', {}, tenant))[0]).toContain('bicycle');
  }
});

test('a slip of the pen and another form of a word find the memory, behind one that has the word itself', async () => {
  const tenant = newTenant();
  await replica.put([
    { tenant, text: 'the invoices are due in March' },
    { tenant, text: 'nothing of that kind' },
  ]);
  expect(await replica.texts('invoice', {}, tenant)).toEqual(['the invoices are due in March']);
  expect(await replica.texts('invoces', {}, tenant)).toEqual(['the invoices are due in March']);
  await replica.put([{ tenant, text: 'an invoice was lost' }]);
  expect((await replica.texts('invoice', {}, tenant))[0]).toBe('an invoice was lost');
});

test('of equal matches the newer one and the one of the session come first, and the order is the same each time', async () => {
  const tenant = newTenant();
  const session = newId();
  await replica.put([
    { tenant, text: 'tea with milk', more: { occurred_at: daysAgo(200), session_id: newId() } },
    { tenant, text: 'tea with lemon', more: { occurred_at: daysAgo(1), session_id: newId() } },
    { tenant, text: 'tea with sugar', more: { occurred_at: daysAgo(1), session_id: session } },
  ]);
  const first = await replica.texts('tea', { session_id: session }, tenant);
  expect(first).toEqual(['tea with sugar', 'tea with lemon', 'tea with milk']);
  for (let round = 0; round < 5; round += 1) {
    expect(await replica.texts('tea', { session_id: session }, tenant)).toEqual(first);
  }
});

test('scores lie between 0 and 1, and min_score and limit hold', async () => {
  const tenant = newTenant();
  await replica.put(
    ['green apple', 'green pear', 'green apple and green pear'].map((text) => ({ tenant, text })),
  );
  const all = await replica.store.recall(tenant, { query: 'green apple pear plum', limit: 10 }, 5_000);
  expect(all).toHaveLength(3);
  for (const { score } of all) {
    expect(score).toBeGreaterThan(0);
    expect(score).toBeLessThanOrEqual(1);
  }
  const best = all[0]?.score ?? 0;
  const some = await replica.store.recall(
    tenant,
    { query: 'green apple pear plum', limit: 10, min_score: best },
    5_000,
  );
  expect(some).toHaveLength(1);
  expect(await replica.store.recall(tenant, { query: 'green', limit: 2 }, 5_000)).toHaveLength(2);
});

test('a tenant sees no memory of another, in recalls and pages, whatever it names', async () => {
  const [one, two] = [newTenant(), newTenant()];
  const session = newId();
  const more = { session_id: session, namespace: 'shared' };
  const [secret = ''] = await replica.put([{ tenant: one, text: 'the secret recipe', more }]);
  await replica.put([{ tenant: two, memoryId: secret, version: 7, text: 'a recipe of our own', more }]);
  expect(await replica.texts('secret recipe', { session_id: session, namespaces: ['shared'] }, two)).toEqual([
    'a recipe of our own',
  ]);
  const page = await replica.store.page(two, { session_id: session, limit: 10 }, 5_000);
  expect(page.memories.map(({ text }) => text)).toEqual(['a recipe of our own']);
  expect(await replica.texts('secret recipe', {}, newTenant())).toEqual([]);
  // Without a tenant in the transaction the search finds nothing at all, and the rows neither.
  const nobody = await replica.own.query(
    `select * from memory_replicator.match('secret recipe', null, null, null, 10, 500)`,
  );
  expect(nobody).toEqual([]);
  expect(await replica.own.query('select 1 from memory_replicator.memories')).toEqual([]);
  await expect(replica.own.query('select 1 from memory_replicator.search')).rejects.toThrow();
});

test('a memory of another tenant that is written without its name is refused', async () => {
  const [one, two] = [newTenant(), newTenant()];
  const writing = replica.own.transaction(
    (tx) =>
      tx.query(
        `insert into memory_replicator.memories (tenant, memory_id, copy, version, deleted_at) values ($1, $2, 0, 1, now())`,
        [two, newId()],
      ),
    { tenant: one },
  );
  await expect(writing).rejects.toThrow();
});

test('expired and deleted memories never come, indexed or not', async () => {
  const tenant = newTenant();
  const [, gone = ''] = await replica.put([
    { tenant, text: 'walnut cake of yesterday', more: { expires_at: daysAgo(1) } },
    { tenant, text: 'walnut cake of today' },
    { tenant, text: 'walnut cake of tomorrow', more: { expires_at: '2099-01-01T00:00:00Z' } },
  ]);
  expect((await replica.texts('walnut', {}, tenant)).sort()).toEqual([
    'walnut cake of today',
    'walnut cake of tomorrow',
  ]);
  // The row is a tombstone already; the search row still says otherwise.
  await replica.whileIndexing(async () => {
    await replica.own.query(
      `select memory_replicator.take(null, array[$1], array[1], array[$2::uuid], array[2], array[null::text], array[null::uuid],
        array[null::uuid], array[null::text], array[null::text], array[null::text], array[null::timestamptz],
        array[null::timestamptz], array[null::timestamptz], array[null::jsonb], array[now()])`,
      [tenant, gone],
    );
    expect(await replica.texts('walnut', {}, tenant)).toEqual(['walnut cake of tomorrow']);
    expect((await replica.store.page(tenant, { limit: 10 }, 5_000)).memories.map(({ text }) => text)).toEqual(
      ['walnut cake of tomorrow'],
    );
  });
});

test('a few memories are found at their commit, without a row that says what is to be indexed', async () => {
  const tenant = newTenant();
  const toIndex = async () => {
    const [row] = await replica.database.query<{ n: string }>(
      'select count(*) n from memory_replicator.to_index where tenant = $1',
      [tenant],
    );
    return Number(row?.n);
  };
  await replica.store.take([intakeRecord({ tenant, text: 'a quince in the garden' })]);
  expect(await replica.texts('quince', {}, tenant)).toEqual(['a quince in the garden']);
  expect(await toIndex()).toBe(0);
  await replica.whileIndexing(async () => {
    await replica.store.take([intakeRecord({ tenant, text: 'a medlar beside it' })]);
  });
  expect(await toIndex()).toBe(1);
  await replica.index();
  expect(await replica.texts('medlar', {}, tenant)).toEqual(['a medlar beside it']);
});

test('a tenant whose memories have all expired, or gone, is answered with none', async () => {
  const tenant = newTenant();
  const [, gone = ''] = await replica.put([
    { tenant, text: 'walnut cake of yesterday', more: { expires_at: daysAgo(1) } },
    { tenant, text: 'walnut cake of today' },
  ]);
  await replica.put([{ tenant, memoryId: gone, version: 2, deletedAt: new Date() }]);
  expect(await replica.texts('walnut cake', {}, tenant)).toEqual([]);
});

test('a new version is found by what it says now, and not by what it said', async () => {
  const tenant = newTenant();
  const [id = ''] = await replica.put([{ tenant, text: 'the meeting is on Monday' }]);
  await replica.put([{ tenant, memoryId: id, version: 2, text: 'the meeting is on Thursday' }]);
  expect(await replica.texts('monday', {}, tenant)).toEqual([]);
  expect(await replica.texts('thursday', {}, tenant)).toEqual(['the meeting is on Thursday']);
});

test('texts that differ in case, blanks and punctuation are shown once, the newest; signs that mean something part them', async () => {
  const tenant = newTenant();
  await replica.put([
    { tenant, text: 'I prefer oolong tea.', more: { occurred_at: daysAgo(3) } },
    { tenant, text: 'I  prefer OOLONG tea', more: { occurred_at: daysAgo(1) } },
    { tenant, text: '“I prefer oolong tea!”', more: { occurred_at: daysAgo(2) } },
    { tenant, text: 'She writes oolong in C', more: { occurred_at: daysAgo(3) } },
    { tenant, text: 'She writes oolong in C++', more: { occurred_at: daysAgo(4) } },
    { tenant, text: 'I prefer oolong tea', more: { occurred_at: daysAgo(5), role: 'note' } },
  ]);
  const texts = await replica.texts('oolong', {}, tenant);
  expect(texts.sort()).toEqual([
    'I  prefer OOLONG tea',
    'I prefer oolong tea',
    'She writes oolong in C',
    'She writes oolong in C++',
  ]);
  const page = await replica.store.page(tenant, { limit: 10 }, 5_000);
  expect(page.memories).toHaveLength(4);
});

test('an older one is shown again when the newer one of the same text is gone, or would end before it', async () => {
  const tenant = newTenant();
  const [, newer = ''] = await replica.put([
    { tenant, text: 'the key is under the mat', more: { occurred_at: daysAgo(2) } },
    { tenant, text: 'The key is under the mat!', more: { occurred_at: daysAgo(1) } },
    { tenant, text: 'the lamp is broken', more: { occurred_at: daysAgo(2) } },
    {
      tenant,
      text: 'the lamp is broken.',
      more: { occurred_at: daysAgo(1), expires_at: '2099-01-01T00:00:00Z' },
    },
  ]);
  expect(await replica.texts('key mat', {}, tenant)).toEqual(['The key is under the mat!']);
  expect(await replica.texts('lamp', {}, tenant)).toHaveLength(2);
  await replica.put([{ tenant, memoryId: newer, version: 2, deletedAt: new Date() }]);
  expect(await replica.texts('key mat', {}, tenant)).toEqual(['the key is under the mat']);
});

test('namespaces and roles narrow a recall', async () => {
  const tenant = newTenant();
  await replica.put([
    { tenant, text: 'maple one', more: { namespace: 'work' } },
    { tenant, text: 'maple two', more: { namespace: 'home', role: 'tool' } },
  ]);
  expect(await replica.texts('maple', { namespaces: ['work'] }, tenant)).toEqual(['maple one']);
  expect(await replica.texts('maple', { roles: ['tool'] }, tenant)).toEqual(['maple two']);
  expect(await replica.texts('maple', { roles: ['tool'], namespaces: ['work'] }, tenant)).toEqual([]);
});

test('any text may be asked for: signs of the query language, quotes, nothing but signs, 4 000 characters', async () => {
  const tenant = newTenant();
  await replica.put([{ tenant, text: `it's a "quoted" \\backslash\\ & pipe | name@example.com 😀` }]);
  for (const query of [
    `' & | ! ( ) : * <-> \\`,
    `it's`,
    '😀',
    '\\',
    `';--`,
    '%s %L $1',
    'x'.repeat(4_000),
    '  ',
    'a:b <-> c',
  ]) {
    await replica.texts(query, {}, tenant);
  }
  expect(await replica.texts(`it's \\backslash\\`, {}, tenant)).toHaveLength(1);
  expect(await replica.texts('name@example.com', {}, tenant)).toHaveLength(1);
});

test('a question whose time is up is ended by the server, and its connection is used again', async () => {
  const tenant = newTenant();
  await replica.put([{ tenant, text: 'patience' }]);
  const slow = replica.own.transaction(
    async (tx) => {
      await tx.query(`select set_config('statement_timeout', '50', true)`);
      await tx.query('select pg_sleep(5)');
    },
    { tenant },
  );
  await expect(slow).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
  expect(await replica.texts('patience', {}, tenant)).toEqual(['patience']);
});

test('pages go over all memories in the order of their ids, each once, bounded in number and bytes', async () => {
  const tenant = newTenant();
  const ids = await replica.put(
    Array.from({ length: 120 }, (_, place) => ({
      tenant,
      text: place < 60 ? `small ${place}` : `large ${place} ${'x'.repeat(20_000)}`,
      more: { session_id: place % 2 === 0 ? '01890000-0000-7000-8000-000000000001' : newId() },
    })),
  );
  for (const [filter, expected] of [
    [{}, ids],
    [{ session_id: '01890000-0000-7000-8000-000000000001' }, ids.filter((_, place) => place % 2 === 0)],
  ] as const) {
    const read: string[] = [];
    let after: string | undefined;
    do {
      const page = await replica.store.page(
        tenant,
        { limit: 50, ...filter, ...(after === undefined ? {} : { after }) },
        5_000,
      );
      expect(page.memories.length).toBeLessThanOrEqual(50);
      expect(JSON.stringify(page.memories).length).toBeLessThan(600_000);
      read.push(...page.memories.map(({ memory_id: id }) => id));
      after = page.nextAfter;
    } while (after !== undefined);
    expect(read).toEqual([...expected].sort());
  }
});
