import { createTestDatabase } from '@signalbox/testkit/database';
import { testInfra } from '@signalbox/testkit/infra';
import { launchService } from '@signalbox/testkit/service';
import { ownTopics } from '@signalbox/testkit/topics';
import { expect, test } from 'vitest';

const entry = new URL('./main.ts', import.meta.url);

test('memory rebuild says what it has read and that the new copy is live; without a broker it fails and switches nothing', async () => {
  await using database = await createTestDatabase();
  await using topics = ownTopics();
  await topics.create('memory.wal');
  const env = {
    KAFKA_BOOTSTRAP_SERVERS: testInfra().kafka,
    KAFKA_TOPIC_PREFIX: topics.prefix,
    DATABASE_URL: database.url,
  };
  const live = async () =>
    (await database.query<{ live: number }>('select live from memory_replicator.copies'))[0]?.live;
  const done = launchService('cli', env, { entry, args: ['memory', 'rebuild'] });
  expect(await done.exited).toMatchObject({ code: 0 });
  expect(done.noise.join('\n')).toMatch(/rebuilt from 0 records in \d+\.\d s; the new copy is live/);
  expect(await live()).toBe(1);
  const failed = launchService(
    'cli',
    { ...env, KAFKA_BOOTSTRAP_SERVERS: '127.0.0.1:1' },
    { entry, args: ['memory', 'rebuild'] },
  );
  expect(await failed.exited).toMatchObject({ code: 1 });
  expect(await live()).toBe(1);
});
