import { newId } from '@signalbox/contracts/ids';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { fileLetter } from '../test/file-letter.ts';
import { type Process, Stack } from '../test/stack.ts';
import { type DeadLetters, deadLetters } from './dead-letter-store.ts';
import { deadLettersKeptMs, pruneDeadLetters } from './dead-letter-upkeep.ts';

let stack: Stack;
let process: Process;
let store: DeadLetters;
beforeAll(async () => {
  stack = await Stack.create('conversation.inbound');
  process = stack.process();
  store = deadLetters(process.database, process.log);
});
afterAll(() => stack?.drop());
beforeEach(() => stack.database.query('delete from messaging.dead_letters'));

const file = (session: string, text: string) => fileLetter(process, session, text);
const list = (tenant: string) => store.list({ tenant, state: 'waiting', limit: 100 });

describe('getting rid of dead letters', () => {
  it('purges one of a tenant, and not another tenant’s', async () => {
    const id = await file(newId(), 'x');
    const purge = (tenant: string) =>
      process.database.transaction((tx) => store.purge(tx, { tenant, id, by: 'key:k1' }));
    expect(await purge('globex')).toBe(false);
    expect(await purge('acme')).toBe(true);
    expect(await purge('acme')).toBe(false);
    expect(process.log.lines.some(({ event }) => event === 'dead_letter.purged')).toBe(true);
  });

  it('purges a topic up to a time, the oldest first, a bounded number at a time', async () => {
    const ids: string[] = [];
    for (const text of ['1', '2', '3', '4']) ids.push(await file(newId(), text));
    await stack.database.query(
      `update messaging.dead_letters set created_at = now() - interval '2 days' where id = any ($1::uuid[])`,
      [ids.slice(0, 3)],
    );
    const purge = (limit: number) =>
      process.database.transaction((tx) =>
        store.purgeBefore(tx, {
          ...{ tenant: 'acme', topic: 'conversation.inbound', before: new Date(Date.now() - 86_400_000) },
          ...{ limit, by: 'key:k1' },
        }),
      );
    expect(await purge(2)).toBe(2);
    expect((await list('acme')).map(({ id }) => id)).toEqual([ids[3], ids[2]]);
    expect(await purge(2)).toBe(1);
    expect(await purge(2)).toBe(0);
    expect((await list('acme')).map(({ id }) => id)).toEqual([ids[3]]);
  });

  it('forgets them after 31 days, whosever they are, in batches, and says how many nobody replayed', async () => {
    expect(deadLettersKeptMs).toBe(31 * 86_400_000);
    const replayed = await file(newId(), 'replayed');
    await process.database.transaction((tx) =>
      store.replay(tx, { tenant: 'acme', id: replayed, by: 'key:k1', source: 'test' }),
    );
    await stack.database.query(
      `insert into messaging.dead_letters (tenant, id, topic, partition, record_offset, record_time, consumer, reason, detail,
         attempts, headers)
       select case when n % 2 = 0 then 'acme' else '_unknown' end, gen_random_uuid(), 'tool.catalog', 0, n, now(), 'g', 'schema',
         '', 1, '{}' from generate_series(1, 1200) n`,
    );
    await stack.database.query(`update messaging.dead_letters set created_at = now() - interval '32 days'`);
    const young = await file(newId(), 'young');
    const signal = new AbortController().signal;
    expect(await pruneDeadLetters(process.database, signal)).toEqual({ gone: 1201, neverReplayed: 1200 });
    expect((await list('acme')).map(({ id }) => id)).toEqual([young]);
    expect(await pruneDeadLetters(process.database, signal)).toEqual({ gone: 0, neverReplayed: 0 });
  });
});

describe('a topic with many dead letters', () => {
  it('is counted by no more than 100 000 entries of an index, others beside it exactly', async () => {
    await stack.database.query(
      `insert into messaging.dead_letters (tenant, id, topic, partition, record_offset, record_time, consumer, reason, detail,
         attempts, headers, replayed_at)
       select 'acme', gen_random_uuid(), 'tool.catalog', 0, n, now(), 'g', 'schema', '', 1, '{}',
         case when n > 100050 then now() end from generate_series(1, 100100) n`,
    );
    await file(newId(), 'one');
    const depths = await process.database.query<{ topic: string; depth: string }>(
      'select * from messaging.dead_letter_depth() order by topic',
    );
    expect(depths).toEqual([
      { topic: 'conversation.inbound', depth: '1' },
      { topic: 'tool.catalog', depth: '100000' },
    ]);
  });
});
