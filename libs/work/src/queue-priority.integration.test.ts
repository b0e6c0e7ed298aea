import { newId } from '@signalbox/contracts/ids';
import { beforeAll, expect, test } from 'vitest';
import { ownTestQueue, queueNames, row, runSql, schema } from '../test/test-queue.ts';
import { queuePriorityDownSql, queuePrioritySql } from './queue-migration.ts';

const own = ownTestQueue();

beforeAll(() => runSql(own.owner, queuePrioritySql(queueNames)));

/** Enters a lane for each name, in this order; `urgent9` has priority 9, any other its number or 5. */
async function enter(...names: string[]): Promise<void> {
  await own.queue.enqueue(
    own.database,
    names.map((name) => row(name.split('@')[0] ?? name, name.split('@')[1] ?? 'acme')),
  );
  const lanes = names.map((name) => /^(\w+?)(\d)@?(\w*)$/.exec(name));
  await own.database.query(`SELECT ${schema}.work_prioritize($1::text[], $2::text[], $3::int[])`, [
    lanes.map((lane) => lane?.[3] || 'acme'),
    lanes.map((lane) => `${lane?.[1]}${lane?.[2]}`),
    lanes.map((lane) => Number(lane?.[2])),
  ]);
}
const claimed = async (limit: number, after = '') =>
  (await own.claim(newId(), limit, { after })).map(({ item }) => item.key);

test('of the lanes of a tenant the most urgent is claimed first, of equal ones the one that waits longest', async () => {
  await enter('low1', 'first5', 'second5', 'high9', 'late9');
  const order: string[] = [];
  for (let turn = 0; turn < 5; turn += 1) order.push(...(await claimed(1)));
  expect(order).toEqual(['high9', 'late9', 'first5', 'second5', 'low1']);
});

test('an urgent lane of one tenant takes nothing from another', async () => {
  await enter('a9', 'b9', 'c9', 'd0@small');
  expect((await claimed(2)).sort()).toEqual(['a9', 'd0']);
});

test('what is urgent and not due yet is passed over', async () => {
  await own.queue.enqueue(own.database, [
    { ...row('later9'), notBefore: new Date(Date.now() + 60_000) },
    row('now1'),
  ]);
  await own.database.query(`SELECT ${schema}.work_prioritize('{acme,acme}', '{later9,now1}', '{9,1}')`);
  expect(await claimed(5)).toEqual(['now1']);
});

test('the claim reads lanes in the order of an index, however many wait', async () => {
  const names = Array.from({ length: 2_000 }, (_, at) => row(`lane${at}`));
  await own.queue.enqueue(own.database, names);
  const plan = await own.owner.query<Record<string, string>>(
    `EXPLAIN SELECT l.tenant FROM ${schema}.lanes l WHERE l.tenant = 'acme' AND l.owner IS NULL AND l.ready_at <= now()
     ORDER BY l.priority DESC, l.ready_at LIMIT 1`,
  );
  expect(JSON.stringify(plan)).toContain('lanes_urgent');
});

test('can be taken away again', async () => {
  await runSql(own.owner, queuePriorityDownSql(queueNames));
  await own.queue.enqueue(own.database, [row('plain')]);
  expect(await claimed(1)).toEqual(['plain']);
});
