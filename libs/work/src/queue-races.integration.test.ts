import { newId } from '@signalbox/contracts/ids';
import { isFault } from '@signalbox/faults/fault';
import { waitFor } from '@signalbox/testkit/wait';
import { describe, expect, test } from 'vitest';
import { first, holder, ownTestQueue, row, schema, terms } from '../test/test-queue.ts';
import { workQueue } from './queue.ts';

const own = ownTestQueue();

describe('an outcome in flight against a takeover', () => {
  test.each(['finish', 'retry', 'handOver'] as const)(
    'the takeover has the lane: a %s waits for it, and is refused',
    async (outcome) => {
      const work = row('s1');
      await own.queue.enqueue(own.database, [work]);
      const [a, b] = [newId(), newId()];
      const stalled = first(await own.claim(a, 1, { leaseMs: 1 }));
      await own.leaseOver();
      const store = {
        finish: () => own.queue.finish(own.database, stalled.item, holder(a, stalled), 'done'),
        retry: () => own.queue.retry(own.database, stalled.item, holder(a, stalled), 10, 'X'),
        handOver: () => own.queue.handOver(own.database, stalled.item, holder(a, stalled)),
      };
      let stored: Promise<unknown> = Promise.resolve();
      await own.open().transaction(async (tx) => {
        const queue = workQueue(Object.assign(tx, { urgent: tx }), schema);
        expect(await queue.claim(terms(b), 1, true, '')).toMatchObject([
          { item: { id: work.id, attempt: 2 } },
        ]);
        stored = store[outcome]();
        stored.catch(() => undefined);
        await own.lockWait();
      });
      await expect(stored).rejects.toSatisfy((error) => isFault(error, 'LEASE_LOST'));
      expect(await own.item(work.id)).toMatchObject({
        state: 'running',
        attempt: 2,
        retries: 0,
        finished_at: null,
      });
    },
  );

  test('the takeover does not commit: the outcome stands', async () => {
    const work = row('s1');
    await own.queue.enqueue(own.database, [work]);
    const [a, b] = [newId(), newId()];
    const slow = first(await own.claim(a, 1, { leaseMs: 1 }));
    await own.leaseOver();
    let stored: Promise<unknown> = Promise.resolve();
    const taken = own.open().transaction(async (tx) => {
      const queue = workQueue(Object.assign(tx, { urgent: tx }), schema);
      expect(await queue.claim(terms(b), 1, true, '')).toHaveLength(1);
      stored = own.queue.finish(own.database, slow.item, holder(a, slow), 'done');
      await own.lockWait();
      throw new Error('dies');
    });
    await expect(taken).rejects.toThrow('dies');
    await stored;
    expect(await own.item(work.id)).toMatchObject({ state: 'done', attempt: 1 });
  });

  test('the outcome has the lane: the takeover passes it over and finds nothing later', async () => {
    await own.queue.enqueue(own.database, [row('s1')]);
    const [a, b] = [newId(), newId()];
    const slow = first(await own.claim(a, 1, { leaseMs: 1 }));
    await own.leaseOver();
    await own.open().transaction(async (tx) => {
      await own.queue.finish(tx, slow.item, holder(a, slow), 'done');
      expect(await own.claim(b, 1, { expired: true })).toEqual([]);
    });
    expect(await own.claim(b, 1, { expired: true })).toEqual([]);
    expect(await own.states()).toEqual({ done: 1 });
  });
});

describe('the last two results of a parked item, stored by two replicas at the same moment', () => {
  const parkedFor = async (pending: number) => {
    const parked = row(newId());
    const owner = newId();
    const { claims } = await own.queue.enqueueAndClaim(own.database, [parked], 1, terms(owner));
    await own.queue.park(own.database, first(claims).item, holder(owner, first(claims)), pending);
    return { tenant: parked.tenant, key: parked.key, id: parked.id };
  };

  test('the second waits for the first, and it alone continues the item', async () => {
    const result = await parkedFor(2);
    const [a, b] = [newId(), newId()];
    let second: ReturnType<typeof own.queue.resumeAndClaim> | undefined;
    const one = await own.database.transaction(async (tx) => {
      const counted = await own.queue.resumeAndClaim(tx, [result], 4, terms(a));
      second = own.open().transaction((other) => own.queue.resumeAndClaim(other, [result], 4, terms(b)));
      await own.lockWait();
      return counted;
    });
    expect(one).toEqual({ resumed: [{ id: result.id, pending: 1 }], claims: [] });
    const two = await second;
    expect(two?.resumed).toEqual([{ id: result.id, pending: 0 }]);
    expect(two?.claims).toMatchObject([{ item: { id: result.id, attempt: 1 } }]);
  });

  test('the first rolls back: its result is stored again, and continues the item', async () => {
    const result = await parkedFor(2);
    const [a, b] = [newId(), newId()];
    let second: ReturnType<typeof own.queue.resumeAndClaim> | undefined;
    const one = own.database.transaction(async (tx) => {
      await own.queue.resumeAndClaim(tx, [result], 4, terms(a));
      second = own.open().transaction((other) => own.queue.resumeAndClaim(other, [result], 4, terms(b)));
      await own.lockWait();
      throw new Error('dies');
    });
    await expect(one).rejects.toThrow('dies');
    expect(await second).toEqual({ resumed: [{ id: result.id, pending: 1 }], claims: [] });
    expect((await own.queue.resumeAndClaim(own.database, [result], 4, terms(a))).claims).toHaveLength(1);
  });

  test('100 times without an order: exactly one of the two continues each', async () => {
    const replicas = [own.open(), own.open()];
    for (let round = 0; round < 100; round += 1) {
      const result = await parkedFor(2);
      const answers = await Promise.all(
        replicas.map((database) =>
          database.transaction((tx) => own.queue.resumeAndClaim(tx, [result], 4, terms(newId()))),
        ),
      );
      expect(answers.map(({ resumed }) => resumed[0]?.pending).sort()).toEqual([0, 1]);
      expect(answers.flatMap(({ claims }) => claims)).toHaveLength(1);
    }
    await waitFor(own.states, (found) => found.running === 100);
  });
});
