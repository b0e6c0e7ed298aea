import { expect, test } from 'vitest';
import { createTestDatabase } from './database.ts';
import { ownTopics } from './topics.ts';

test('a database has the whole schema, the service role no way around row level security, and is dropped', async () => {
  const database = await createTestDatabase();
  const other = await createTestDatabase();
  expect(other.name).not.toBe(database.name);
  const [role] = await database.query<{ rolsuper: boolean; rolbypassrls: boolean }>(
    'SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = $1',
    [new URL(database.url).username],
  );
  expect(role).toEqual({ rolsuper: false, rolbypassrls: false });
  const [count] = await database.query<{ count: string }>('SELECT count(*) FROM signalbox.migrations');
  expect(Number(count?.count)).toBeGreaterThan(5);
  await database.drop();
  expect(await other.query('SELECT 1 FROM pg_database WHERE datname = $1', [database.name])).toEqual([]);
  await other.drop();
});

test('topics are made under a prefix of their own, again without harm, and deleted', async () => {
  await using topics = ownTopics();
  expect(topics.prefix).not.toBe(ownTopics().prefix);
  await topics.create('tool.catalog');
  await topics.create('tool.catalog');
});
