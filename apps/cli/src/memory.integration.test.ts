import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { environmentWith } from '@signalbox/config/process-environment';
import { newId } from '@signalbox/contracts/ids';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';

const program = join(import.meta.dirname, '../bin/signalbox.js');
let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database?.drop());
beforeEach(() => database.query('delete from memory_sync.memories'));

function memory(args: string[], url = database.ownerUrl) {
  return new Promise<{ code: number; out: string; err: string }>((resolve) => {
    const env = environmentWith({ DATABASE_OWNER_URL: url });
    const child = execFile(
      process.execPath,
      [program, 'memory', ...args],
      { env, timeout: 60_000 },
      (_error, out, err) => resolve({ code: child.exitCode ?? -1, out, err }),
    );
  });
}

/** A version that has failed, as the worker leaves it; its work row may be gone by now. */
async function failed(tenant: string): Promise<string> {
  const memoryId = newId();
  const key = Buffer.from(memoryId.replaceAll('-', '').repeat(2), 'hex');
  await database.query(
    `insert into memory_sync.memories (tenant, memory_id, version, idempotency_key, state, deleted, value, last_error)
     values ($1, $2, 1, $3, 'failed', false, '{}', 'MEMORY_BACKEND_UNAVAILABLE: it answered 503')`,
    [tenant, memoryId, key],
  );
  return memoryId;
}

const work = () =>
  database.query<{ tenant: string; key: string; state: string }>(
    'select tenant, key, state from memory_sync.pushes where finished_at is null order by tenant',
  );

test('lists what has failed, of a tenant or of all', async () => {
  const [ours, theirs] = [await failed('acme'), await failed('globex')];
  const all = await memory(['failed']);
  expect(all.code).toBe(0);
  for (const id of [ours, theirs]) expect(all.out).toContain(id);
  expect(all.err).toContain('of all tenants: 2 failed, 0 waiting');
  const one = await memory(['failed', '--tenant', 'acme']);
  expect(one.out).toMatch(new RegExp(`acme +${ours} +1 +write .*MEMORY_BACKEND_UNAVAILABLE`));
  expect(one.out).not.toContain(theirs);
});

test('requeues one, those of a tenant, or all, each once', async () => {
  const [first, second, theirs] = [await failed('acme'), await failed('acme'), await failed('globex')];
  expect((await memory(['requeue', '--tenant', 'acme', '--id', first])).out).toBe('requeued 1\n');
  expect(await work()).toEqual([{ tenant: 'acme', key: first, state: 'ready' }]);
  expect((await memory(['requeue', '--tenant', 'acme'])).out).toBe('requeued 1\n');
  expect((await memory(['requeue'])).out).toBe('requeued 1\n');
  expect((await memory(['requeue'])).out).toBe('requeued 0\n');
  expect((await work()).map(({ key }) => key).sort()).toEqual([first, second, theirs].sort());
  expect(await database.query("select 1 from memory_sync.memories where state <> 'waiting'")).toEqual([]);
});

test('is for operators', async () => {
  await failed('acme');
  const refused = await memory(['requeue'], database.url);
  expect(refused).toMatchObject({ code: 1, err: expect.stringContaining('FORBIDDEN') });
  expect((await memory(['requeue', '--id', newId()])).err).toContain('--tenant: is needed with --id');
});
