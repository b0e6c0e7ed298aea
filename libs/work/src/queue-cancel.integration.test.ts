import { newId } from '@signalbox/contracts/ids';
import { waitFor } from '@signalbox/testkit/wait';
import { describe, expect, test } from 'vitest';
import { type ClaimOptions, first, holder, ownTestQueue, row, schema, terms } from '../test/test-queue.ts';
import type { Claim, WorkRow } from './queue.ts';

const own = ownTestQueue();

const asked = { by: 'u1', reason: 'changed my mind' };
const cancel = (key: string, ids?: readonly string[], tenant = 'acme') =>
  own.queue.cancel(own.database, { tenant, key, cancel: asked, ...(ids === undefined ? {} : { ids }) });
const result = ({ tenant, key, id }: WorkRow) => ({ tenant, key, id });

async function claimed(owner: string, o: ClaimOptions = {}): Promise<Claim> {
  return first(await own.claim(owner, 1, o));
}

test('what never ran ends at once, with who asked for it; the rest of the lane goes on', async () => {
  const [one, two, three] = [row('s1'), row('s1'), row('s1')];
  await own.queue.enqueue(own.database, [one, two, three]);
  expect(await cancel('s1', [one.id, two.id])).toEqual([
    { id: one.id, was: 'waiting' },
    { id: two.id, was: 'waiting' },
  ]);
  expect(await own.item(one.id)).toMatchObject({ state: 'cancelled', cancel: asked, attempt: 0 });
  expect((await own.item(one.id)).finished_at).toBeInstanceOf(Date);
  expect((await claimed(newId())).item.id).toBe(three.id);
});

test('a lane of which all is cancelled is no longer claimed, and takes new work', async () => {
  await own.queue.enqueue(own.database, [row('s1'), row('s1')]);
  expect(await cancel('s1')).toHaveLength(2);
  expect(await own.claim(newId())).toEqual([]);
  const next = row('s1');
  const taken = await own.queue.enqueueAndClaim(own.database, [next], 1, terms(newId()));
  expect(taken.claims).toMatchObject([{ item: { id: next.id, attempt: 1 } }]);
});

test('a repeated cancel, one of finished work, of another tenant or of nothing changes nothing', async () => {
  const [waiting, running] = [row('s1'), row('s2')];
  await own.queue.enqueue(own.database, [waiting, running]);
  const foreign = [await cancel('s1', [waiting.id], 'globex'), await cancel('s2', undefined, 'globex')];
  expect([...foreign, await cancel('nothing'), await cancel('s1', [newId()])]).toEqual([[], [], [], []]);
  expect(await own.item(waiting.id)).toMatchObject({ state: 'ready', cancel: null });
  const lanes = await own.owner.query(`SELECT key FROM ${schema}.lanes WHERE key = 'nothing'`);
  expect(lanes).toEqual([]);

  const a = newId();
  const claims = await own.claim(a);
  expect([await cancel('s1'), await cancel('s2')].flat().map(({ was }) => was)).toEqual([
    'running',
    'running',
  ]);
  const other = { tenant: 'acme', key: 's1', cancel: { by: 'u2' } };
  expect(await own.queue.cancel(own.database, other)).toEqual([]);
  expect(await own.item(waiting.id)).toMatchObject({ cancel: asked });
  for (const each of claims) await own.queue.finish(own.database, each.item, holder(a, each), 'done');
  expect([await cancel('s1'), await cancel('s2')].flat()).toEqual([]);
});

test('the heartbeat brings the cancel to the holder, and it is named with its item', async () => {
  const work = row('s1');
  await own.queue.enqueue(own.database, [work, row('s2')]);
  const a = newId();
  await own.claim(a);
  await cancel('s1');
  const beats = await own.queue.heartbeat(a, 5000);
  expect(beats.find(({ key }) => key === 's1')).toMatchObject({ cancelled: { id: work.id, cancel: asked } });
  expect(beats.find(({ key }) => key === 's2')).not.toHaveProperty('cancelled');
});

describe('races', () => {
  test('cancel before finish: the end that the holder stores stands, also as cancelled', async () => {
    const [done, ended] = [row('s1'), row('s2')];
    await own.queue.enqueue(own.database, [done, ended]);
    const a = newId();
    const claims = await own.claim(a);
    await cancel('s1');
    await cancel('s2');
    for (const each of claims) {
      const state = each.item.id === done.id ? 'done' : 'cancelled';
      await own.queue.finish(own.database, each.item, holder(a, each), state);
    }
    expect(await own.item(done.id)).toMatchObject({ state: 'done' });
    expect(await own.item(ended.id)).toMatchObject({ state: 'cancelled' });
    const again = await own.database.query(`SELECT ${schema}.work_requeue('acme', $1) AS yes`, [ended.id]);
    expect(again).toEqual([{ yes: false }]);
    expect(await own.claim(a)).toEqual([]);
  });

  test('a cancel at the moment of the finish waits for it and finds nothing to cancel', async () => {
    await own.queue.enqueue(own.database, [row('s1')]);
    const a = newId();
    const one = await claimed(a);
    let cancelled: Promise<unknown> = Promise.resolve();
    await own.open().transaction(async (tx) => {
      await own.queue.finish(tx, one.item, holder(a, one), 'done');
      cancelled = cancel('s1');
      await own.lockWait();
    });
    expect(await cancelled).toEqual([]);
    expect(await own.item(one.item.id)).toMatchObject({ state: 'done', cancel: null });
  });

  test('cancel before park: the item does not wait for results, and whoever claims it next ends it', async () => {
    const work = row('s1');
    await own.queue.enqueue(own.database, [work]);
    const [a, b] = [newId(), newId()];
    const one = await claimed(a);
    await cancel('s1');
    await own.queue.park(own.database, one.item, holder(a, one), 2);
    expect((await own.queue.resumeAndClaim(own.database, [result(work)], 1, terms(b))).resumed).toEqual([]);
    expect((await claimed(b)).item).toMatchObject({ id: work.id, attempt: 1, cancel: asked });
  });

  test('cancel after park: it is claimed at once, and late results do not count', async () => {
    const [work, behind] = [row('s1'), row('s1')];
    await own.queue.enqueue(own.database, [work, behind]);
    const [a, b] = [newId(), newId()];
    const one = await claimed(a);
    await own.queue.park(own.database, one.item, holder(a, one), 2);
    expect(await cancel('s1', [work.id])).toEqual([{ id: work.id, was: 'idle' }]);
    const late = await own.queue.resumeAndClaim(own.database, [result(work), result(work)], 1, terms(b));
    expect(late).toEqual({ resumed: [], claims: [] });
    const two = await claimed(b);
    expect(two.item).toMatchObject({ id: work.id, cancel: asked });
    await own.queue.finish(own.database, two.item, holder(b, two), 'cancelled');
    expect((await claimed(a)).item).toMatchObject({ id: behind.id });
  });

  test('cancel at the moment of the claim: it waits and finds the item running', async () => {
    const work = row('s1');
    await own.queue.enqueue(own.database, [work]);
    const a = newId();
    let cancelled: Promise<unknown> = Promise.resolve();
    await own.open().transaction(async (tx) => {
      const sql = `SELECT id FROM ${schema}.work_claim_next($1, 1, 5000, false, '{1}')`;
      expect(await tx.query(sql, [a])).toEqual([{ id: work.id }]);
      cancelled = cancel('s1');
      await own.lockWait();
    });
    expect(await cancelled).toEqual([{ id: work.id, was: 'running' }]);
  });

  test('a claim at the moment of the cancel leaves the lane alone, and finds nothing in it later', async () => {
    await own.queue.enqueue(own.database, [row('s1')]);
    await own.database.transaction(async (tx) => {
      await own.queue.cancel(tx, { tenant: 'acme', key: 's1', cancel: asked });
      expect(await own.queue.claim(terms(newId()), 1, false, '')).toEqual([]);
    });
    expect(await own.claim(newId())).toEqual([]);
  });

  test('the holder stalls past its lease: who takes over is told with the claim', async () => {
    const work = row('s1');
    await own.queue.enqueue(own.database, [work]);
    const [a, b] = [newId(), newId()];
    const stalled = await claimed(a, { leaseMs: 1 });
    expect(await cancel('s1')).toEqual([{ id: work.id, was: 'running' }]);
    const taken = first(
      await waitFor(
        () => own.claim(b, 1, { expired: true }),
        (claims) => claims.length === 1,
      ),
    );
    expect(taken.item).toMatchObject({ id: work.id, attempt: 2, lost: 1, cancel: asked });
    const late = own.queue.finish(own.database, stalled.item, holder(a, stalled), 'done');
    await expect(late).rejects.toMatchObject({ code: 'LEASE_LOST' });
  });

  test('an item that waits for a retry is claimed now, and one that is retried after the cancel too', async () => {
    const [one, two] = [row('s1'), row('s2')];
    await own.queue.enqueue(own.database, [one, two]);
    const a = newId();
    const [before, after] = await own.claim(a);
    if (before === undefined || after === undefined) throw new Error('two lanes were free');
    await own.queue.retry(own.database, before.item, holder(a, before), 60_000, 'TIMEOUT');
    expect(await cancel(before.item.key)).toEqual([{ id: before.item.id, was: 'idle' }]);
    await cancel(after.item.key);
    await own.queue.retry(own.database, after.item, holder(a, after), 60_000, 'TIMEOUT');
    const again = await own.claim(a);
    expect(again.map(({ item }) => item.cancel)).toEqual([asked, asked]);
  });

  test('two transactions that cancel in the same lanes do not wait for each other when they lock them first', async () => {
    await own.queue.enqueue(own.database, [row('s1'), row('s2')]);
    const cancelBoth = (keys: readonly string[]) =>
      own.database.transaction(async (tx) => {
        await own.queue.lock(
          tx,
          keys.map((key) => ({ tenant: 'acme', key })),
        );
        const found = [];
        for (const key of keys) {
          found.push(...(await own.queue.cancel(tx, { tenant: 'acme', key, cancel: asked })));
        }
        return found.length;
      });
    const counts = await Promise.all([cancelBoth(['s1', 's2']), cancelBoth(['s2', 's1'])]);
    expect(counts.toSorted()).toEqual([0, 2]);
  });
});
