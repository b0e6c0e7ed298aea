import { newId } from '@signalbox/contracts/ids';
import { sqlState } from '@signalbox/postgres/classify-error';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createTestQueue, row, schema, type TestQueue } from '../test/test-queue.ts';
import type { Claim } from './queue.ts';

let own: TestQueue;
beforeAll(async () => {
  own = await createTestQueue();
});
afterAll(() => own.close());
beforeEach(async () => {
  await own.owner.query(`DELETE FROM ${schema}.items`);
  await own.owner.query(`DELETE FROM ${schema}.lanes`);
});

const terms = (owner: string, leaseMs = 5000, formats = [1]) => ({ owner, leaseMs, formats });
const claim = (owner: string, limit = 10, o: { leaseMs?: number; expired?: boolean; after?: string } = {}) =>
  own.queue.claim(terms(owner, o.leaseMs), limit, o.expired ?? false, o.after ?? '');
const holder = (owner: string, { fence }: Claim) => ({ owner, fence });
function first(claims: readonly Claim[]): Claim {
  const [found] = claims;
  if (found === undefined) throw new Error('nothing was claimed');
  return found;
}
describe('upkeep', () => {
  test('load counts what waits; prune removes old rows and idle lanes; requeue gives a second chance', async () => {
    await own.queue.enqueue(own.database, [row('s1'), row('s1'), row('s2', 'globex')]);
    const a = newId();
    const claims = await claim(a);
    expect(await own.queue.load()).toMatchObject([{ tenant: 'acme', waiting: 1 }]);
    for (const each of claims) {
      await own.queue.finish(own.database, each.item, holder(a, each), 'failed', 'x');
    }
    expect(await own.queue.prune(60_000, 100)).toBe(0);
    const failed = first(claims);
    const [answer] = await own.database.query<{ again: boolean }>(
      `SELECT ${schema}.work_requeue($1, $2) AS again`,
      [failed.item.tenant, failed.item.id],
    );
    expect(answer?.again).toBe(true);
    expect(await own.queue.prune(0, 100)).toBe(1);
    const lanes = await own.owner.query<{ key: string }>(`SELECT key FROM ${schema}.lanes`);
    expect(lanes.map((lane) => lane.key)).toEqual(['s1']);
    expect(first(await claim(a)).item).toMatchObject({ id: failed.item.id, attempt: 2, retries: 0 });
  });

  test('the sweep finds a lane that nothing marks as ready', async () => {
    await own.queue.enqueue(own.database, [row('s1')]);
    await own.owner.query(`UPDATE ${schema}.lanes SET ready_at = NULL`);
    expect(await claim(newId())).toEqual([]);
    expect(await own.queue.sweep()).toBe(1);
    expect(await own.queue.sweep()).toBe(0);
    expect(await claim(newId())).toHaveLength(1);
  });
});

describe('rights', () => {
  test('the service reaches the tables through the functions only', async () => {
    await own.queue.enqueue(own.database, [row('s1')]);
    for (const statement of [
      `SELECT * FROM ${schema}.lanes`,
      `SELECT * FROM ${schema}.items`,
      `UPDATE ${schema}.lanes SET owner = NULL`,
      `DELETE FROM ${schema}.items`,
      `INSERT INTO ${schema}.lanes (tenant, key) VALUES ('acme', 'x')`,
      `TRUNCATE ${schema}.items`,
      `SELECT * FROM ${schema}.work_take('{acme}', '{s1}', gen_random_uuid(), 1000, '{1}')`,
      `SET ROLE signalbox_queue`,
    ]) {
      const error = await own.database.query(statement).catch((thrown: unknown) => thrown);
      expect(sqlState(error), statement).toBe('42501');
    }
  });

  test('every definer function pins its search_path and belongs to signalbox_queue', async () => {
    const found = await own.owner.query<{ name: string; owner: string; config: string[] }>(
      `SELECT p.proname AS name, p.proowner::regrole::text AS owner, p.proconfig AS config FROM pg_proc p
       WHERE p.pronamespace = $1::regnamespace AND p.prosecdef`,
      [schema],
    );
    expect(found.length).toBeGreaterThan(12);
    for (const { name, owner, config } of found) {
      expect(owner, name).toBe('signalbox_queue');
      expect(config, name).toContain('search_path=pg_catalog, pg_temp');
    }
  });
});
