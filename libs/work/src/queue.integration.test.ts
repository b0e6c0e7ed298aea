import { newId } from '@signalbox/contracts/ids';
import { isFault } from '@signalbox/faults/fault';
import { sqlState } from '@signalbox/postgres/classify-error';
import type { Queryable } from '@signalbox/postgres/database';
import { waitFor } from '@signalbox/testkit/wait';
import { describe, expect, test } from 'vitest';
import { first, holder, ownTestQueue, row, schema, terms } from '../test/test-queue.ts';
import type { Claim } from './queue.ts';

const own = ownTestQueue();

/** Rows that the transaction has written so far, over all tables. */
async function rowsWritten(tx: Queryable): Promise<number> {
  const [row] = await tx.query<{ n: string }>(
    'SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) AS n FROM pg_stat_xact_user_tables',
  );
  return Number(row?.n);
}

describe('lanes', () => {
  test('a repeat is left out, and one lane gives one item at a time in order', async () => {
    const rows = [row('s1'), row('s1'), row('s2')];
    expect(await own.queue.enqueue(own.database, rows)).toEqual(rows.map((each) => each.id));
    expect(await own.queue.enqueue(own.database, [...rows, row('s2')])).toHaveLength(1);

    const [a, b] = [newId(), newId()];
    const claims = await own.claim(a);
    expect(claims.map((each) => each.item.id)).toEqual([rows[0]?.id, rows[2]?.id]);
    expect(await own.claim(b)).toEqual([]);

    const one = first(claims);
    expect(await own.queue.finish(own.database, one.item, holder(a, one), 'done')).toBe(true);
    const next = first(await own.claim(b));
    expect(next.item.id).toBe(rows[1]?.id);
    expect(next.fence).toBeGreaterThan(one.fence);
  });

  test('two claims at the same moment share the lanes and never an item', async () => {
    const rows = Array.from({ length: 200 }, (_, index) => row(`s${index % 40}`));
    await own.queue.enqueue(own.database, rows);
    const owners = [newId(), newId(), newId()];
    const taken = (await Promise.all(owners.map((owner) => own.claim(owner, 20)))).flat();
    expect(new Set(taken.map((each) => each.item.key)).size).toBe(taken.length);
    expect(taken.length).toBe(40);
  });

  test('a stalled owner past its lease is refused, and its item is a second attempt elsewhere', async () => {
    const [work] = [row('s1')];
    await own.queue.enqueue(own.database, [work]);
    const [a, b] = [newId(), newId()];
    const stalled = first(await own.claim(a, 1, { leaseMs: 50 }));
    expect(stalled.item.attempt).toBe(1);
    const taken = first(
      await waitFor(
        () => own.claim(b, 1, { expired: true }),
        (claims) => claims.length === 1,
      ),
    );
    expect(taken.item.attempt).toBe(2);
    for (const write of [
      () => own.queue.hold(own.database, stalled.item, holder(a, stalled)),
      () => own.queue.finish(own.database, stalled.item, holder(a, stalled), 'done'),
      () => own.queue.park(own.database, stalled.item, holder(a, stalled), 1),
      () => own.queue.retry(own.database, stalled.item, holder(a, stalled), 0, 'X'),
      // The right fence does not help the wrong owner, nor an old fence the right one.
      () => own.queue.hold(own.database, stalled.item, { owner: a, fence: taken.fence }),
      () => own.queue.hold(own.database, stalled.item, { owner: b, fence: stalled.fence }),
    ]) {
      const error = await write().catch((thrown: unknown) => thrown);
      expect(isFault(error, 'LEASE_LOST')).toBe(true);
      expect(sqlState(error)).toBe('SB001');
    }
    await own.queue.hold(own.database, taken.item, holder(b, taken));
  });

  test('an expired lease that nobody took is renewed by its owner, and then not taken', async () => {
    await own.queue.enqueue(own.database, [row('s1')]);
    const [a, b] = [newId(), newId()];
    const mine = first(await own.claim(a, 1, { leaseMs: 1 }));
    await own.leaseOver();
    expect(await own.queue.heartbeat(a, 5000)).toMatchObject([{ fence: mine.fence, renewed: true }]);
    expect(await own.claim(b, 1, { expired: true })).toEqual([]);
    await own.queue.hold(own.database, mine.item, holder(a, mine));
  });

  test('without leave to take expired leases nobody takes one', async () => {
    await own.queue.enqueue(own.database, [row('s1')]);
    await own.claim(newId(), 1, { leaseMs: 1 });
    await own.leaseOver();
    expect(await own.claim(newId(), 1, { expired: false })).toEqual([]);
  });

  test('attempt counts takeovers, retries and hand-overs, not parking', async () => {
    const work = row('s1');
    await own.queue.enqueue(own.database, [work]);
    const a = newId();
    const again = async () => first(await own.claim(a));
    const one = await again();
    await own.queue.park(own.database, one.item, holder(a, one), 2);
    expect(await own.claim(a)).toEqual([]);
    const result = { tenant: 'acme', key: 's1', id: work.id };
    const half = await own.queue.resumeAndClaim(own.database, [result], 1, terms(a));
    expect(half).toMatchObject({ resumed: [{ pending: 1 }], claims: [] });
    const whole = await own.queue.resumeAndClaim(own.database, [result, result], 1, terms(a));
    expect(whole.resumed).toEqual([{ id: work.id, pending: 0 }]); // the third is late
    const two = first(whole.claims);
    expect(two.item.attempt).toBe(1);
    await own.queue.retry(own.database, two.item, holder(a, two), 0, 'TIMEOUT');
    const three = await again();
    expect(three.item).toMatchObject({ attempt: 2, retries: 1 });
    await own.queue.handOver(own.database, three.item, holder(a, three));
    const four = await again();
    expect(four.item).toMatchObject({ attempt: 3, retries: 1 });
    await own.queue.finish(own.database, four.item, holder(a, four), 'failed', 'why');
    expect(await own.item(work.id)).toMatchObject({ state: 'failed', last_error: 'why', attempt: 3 });
  });

  test('a parked item keeps its place: what came later waits behind it', async () => {
    const [work, later] = [row('s1'), row('s1')];
    await own.queue.enqueue(own.database, [work]);
    const a = newId();
    const one = first(await own.claim(a));
    await own.queue.park(own.database, one.item, holder(a, one), 1);
    await own.queue.enqueue(own.database, [later]);
    expect(await own.claim(a)).toEqual([]);
    const { claims } = await own.queue.resumeAndClaim(
      own.database,
      [{ tenant: 'acme', key: 's1', id: work.id }],
      0,
      terms(a),
    );
    expect(claims).toEqual([]);
    expect(first(await own.claim(a)).item.id).toBe(work.id);
  });

  test('a retry holds its lane until it is due', async () => {
    await own.queue.enqueue(own.database, [row('s1'), row('s1')]);
    const a = newId();
    const one = first(await own.claim(a));
    await own.queue.retry(own.database, one.item, holder(a, one), 200, 'TIMEOUT');
    const startedAt = performance.now();
    const again = first(
      await waitFor(
        () => own.claim(a),
        (claims) => claims.length > 0,
      ),
    );
    expect(again.item.id).toBe(one.item.id);
    expect(performance.now() - startedAt).toBeGreaterThan(150);
  });

  test('a format this owner does not know is left, and holds up no other lane', async () => {
    const newer = row('s1', 'acme', { format: 2 });
    await own.queue.enqueue(own.database, [newer]);
    await own.queue.enqueue(own.database, [row('s2')]);
    expect((await own.claim(newId(), 1)).map((each) => each.item.key)).toEqual(['s2']);
    const knows = await waitFor(
      () => own.queue.claim(terms(newId(), 5000, [1, 2]), 5, false, ''),
      (claims) => claims.length > 0,
    );
    expect(first(knows).item.id).toBe(newer.id);
  });
});

describe('release racing intake', () => {
  test('the intake waits for the release and then makes the lane ready', async () => {
    await own.queue.enqueue(own.database, [row('s1')]);
    const [a, b] = [newId(), newId()];
    const one = first(await own.claim(a));
    const other = own.open();
    let enqueued: Promise<string[]> = Promise.resolve([]);
    await own.database.transaction(async (tx) => {
      // Nothing more in the lane as the release sees it; the row of the intake is not committed.
      expect(await own.queue.finish(tx, one.item, holder(a, one), 'done')).toBe(false);
      enqueued = own.queue.enqueue(other, [row('s1')]);
      await own.lockWait();
    });
    await enqueued;
    expect(await own.claim(b)).toHaveLength(1);
  });

  test('the release waits for the intake and sees its row', async () => {
    await own.queue.enqueue(own.database, [row('s1')]);
    const [a, b] = [newId(), newId()];
    const one = first(await own.claim(a));
    const other = own.open();
    let finished: Promise<boolean> = Promise.resolve(false);
    await other.transaction(async (tx) => {
      await own.queue.enqueue(tx, [row('s1')]);
      finished = own.queue.finish(own.database, one.item, holder(a, one), 'done');
      await own.lockWait();
    });
    expect(await finished).toBe(true);
    expect(await own.claim(b)).toHaveLength(1);
  });
});

describe('fairness', () => {
  test('tenants are served in turn, whatever one of them has waiting', async () => {
    await own.queue.enqueue(
      own.database,
      Array.from({ length: 50 }, (_, n) => row(`s${n}`, 'big')),
    );
    for (const tenant of ['small', 'tiny']) {
      await own.queue.enqueue(
        own.database,
        Array.from({ length: 3 }, (_, n) => row(`s${n}`, tenant)),
      );
    }
    const a = newId();
    const counts = (claims: readonly Claim[]) =>
      Object.fromEntries(
        ['big', 'small', 'tiny'].map((tenant) => [
          tenant,
          claims.filter((each) => each.item.tenant === tenant).length,
        ]),
      );
    expect(counts(await own.claim(a, 6))).toEqual({ big: 2, small: 2, tiny: 2 });
    // One slot at a time, as when one run ends: each claim begins behind the tenant served last.
    const served: string[] = [];
    for (let turn = 0; turn < 4; turn += 1) {
      const [next] = await own.claim(a, 1, { after: served.at(-1) ?? 'big' });
      served.push(next?.item.tenant ?? 'nobody');
    }
    expect(served).toEqual(['small', 'tiny', 'big', 'big']);
    // What the small ones leave goes to the big one.
    expect(counts(await own.claim(a, 10))).toEqual({ big: 10, small: 0, tiny: 0 });
  });
});

describe('enqueue and claim in one', () => {
  test('takes lanes that became ready by it, up to the slots, and nothing on rollback', async () => {
    await own.queue.enqueue(own.database, [row('waiting')]);
    const a = newId();
    await own.database
      .transaction(async (tx) => {
        const taken = await own.queue.enqueueAndClaim(tx, [row('gone')], 5, terms(a));
        expect(taken.claims).toHaveLength(1);
        throw new Error('rolled back');
      })
      .catch(() => undefined);
    expect(await own.queue.heartbeat(a, 1000)).toEqual([]);

    const rows = [row('waiting'), row('s1'), row('s1'), row('s2'), row('s3')];
    const { ids, claims } = await own.queue.enqueueAndClaim(own.database, rows, 2, terms(a));
    expect(ids.toSorted()).toEqual(rows.map((each) => each.id).toSorted());
    expect(claims.map((each) => each.item.id)).toEqual([rows[1]?.id, rows[3]?.id]);
    expect((await own.claim(newId())).map((each) => each.item.key).sort()).toEqual(['s3', 'waiting']);
    const repeat = await own.queue.enqueueAndClaim(own.database, rows, 2, terms(a));
    expect(repeat).toEqual({ ids: [], claims: [] });
    // A repeat of finished work does not take its lane.
    const one = first(claims);
    await own.queue.finish(own.database, one.item, holder(a, one), 'done');
    await own.queue.enqueueAndClaim(own.database, rows, 2, terms(a));
    expect((await own.queue.heartbeat(a, 1000)).map(({ key }) => key)).toEqual(['s2']);
  });

  test('what comes behind a parked item does not take its lane, and the result does', async () => {
    const [a, b] = [newId(), newId()];
    const parked = row('s1');
    const { claims } = await own.queue.enqueueAndClaim(own.database, [parked], 1, terms(a));
    await own.queue.park(own.database, first(claims).item, holder(a, first(claims)), 2);
    const behind = row('s1');
    const waiting = await own.queue.enqueueAndClaim(own.database, [behind], 1, terms(b));
    expect(waiting).toEqual({ ids: [behind.id], claims: [] });
    expect(await own.item(behind.id)).toMatchObject({ state: 'ready', attempt: 0, started_at: null });
    expect(await own.claim(b)).toEqual([]);
    const result = { tenant: parked.tenant, key: parked.key, id: parked.id };
    const resumed = await own.queue.resumeAndClaim(own.database, [result, result], 1, terms(b));
    expect(resumed.resumed.map(({ pending }) => pending)).toEqual([1, 0]);
    expect(resumed.claims).toMatchObject([{ item: { id: parked.id, attempt: 1, payload: parked.payload } }]);
    expect(await own.queue.resumeAndClaim(own.database, [result], 1, terms(b))).toEqual({
      resumed: [],
      claims: [],
    });
    const last = first(resumed.claims);
    await own.queue.finish(own.database, last.item, holder(b, last), 'done');
    expect(first(await own.claim(a)).item).toMatchObject({ id: behind.id, attempt: 1 });
  });

  test('an intake that waited for a lane in which something was parked meanwhile leaves it parked', async () => {
    const [a, b] = [newId(), newId()];
    const [one, two] = [row('s1'), row('s1')];
    const release = Promise.withResolvers<void>();
    const parking = own.database.transaction(async (tx) => {
      const { claims } = await own.queue.enqueueAndClaim(tx, [one], 1, terms(a));
      await own.queue.park(tx, first(claims).item, holder(a, first(claims)), 1);
      await release.promise;
    });
    await waitFor(
      async () => own.owner.query(`SELECT 1 FROM pg_locks WHERE relation = '${schema}.items'::regclass`),
      (found) => found.length > 0,
    );
    const second = own.queue.enqueueAndClaim(own.database, [two], 1, terms(b));
    await own.lockWait();
    release.resolve();
    await parking;
    expect(await second).toEqual({ ids: [two.id], claims: [] });
    expect(await own.claim(b)).toEqual([]);
  });

  test('an item that is claimed at once, parked, resumed and finished writes its row and its lane four times each', async () => {
    const a = newId();
    await own.database.transaction(async (tx) => {
      const before = await rowsWritten(tx);
      const { claims } = await own.queue.enqueueAndClaim(tx, [row('s1')], 1, terms(a));
      const one = first(claims);
      await own.queue.park(tx, one.item, holder(a, one), 1);
      const { claims: again } = await own.queue.resumeAndClaim(tx, [one.item], 1, terms(a));
      await own.queue.finish(tx, one.item, holder(a, first(again)), 'done');
      expect((await rowsWritten(tx)) - before).toBe(8);
    });
  });
});
