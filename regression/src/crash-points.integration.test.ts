import type { FailPointName } from '@signalbox/lifecycle/fail-point';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Cluster, startCluster } from './cluster.ts';
import { createLedger, type Figures } from './ledger.ts';

// Each point once, by SIGKILL. A round kills one replica of several services at once, which is harder and takes less time;
// the other ways to break, one at a time, are in crash-points.regression.ts.
const rounds: readonly Readonly<Record<string, FailPointName>>[] = [
  {
    'gateway-1': 'accept.committed',
    'worker-1': 'outbox.published',
    'executor-1': 'intake.committed',
    'relay-1': 'relay.sent',
  },
  { 'gateway-1': 'stream.stored', 'worker-1': 'turn.step_done', 'executor-1': 'outbox.committed' },
  { 'gateway-1': 'stream.appended', 'worker-1': 'turn.deltas_acknowledged', 'executor-1': 'call.done' },
];

const orders = (armed: Readonly<Record<string, FailPointName>>) =>
  Object.entries(armed).map(([name, point]) => [name, { FAIL_POINT: `${point}:2` }] as const);

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster({
    proxies: false,
    firstSettings: {
      ...Object.fromEntries(orders(rounds[0] ?? {})),
      // Leaves its rows to the relays: without it they would have no work to die at.
      'gateway-2': { OUTBOX_FAST_MAX_ROWS: '1' },
    },
  });
  cluster.model.setFaults([{ tokensPerSecond: 200 }]);
}, 90_000);
afterAll(() => cluster?.close(), 30_000);

describe.each(rounds.map((armed) => ({ armed })))('while processes are killed', ({ armed }) => {
  let figures: Figures;
  beforeAll(async () => {
    const since = new Date();
    const ledger = createLedger(cluster);
    try {
      await Promise.all(
        orders(armed).map(async ([name, order]) => {
          const replica = cluster.replica(name);
          if (!replica.running) await replica.start(order);
          await replica.ready();
        }),
      );
      await ledger.traffic({ sessions: 10, messages: 3 });
      // Which rows are left to a relay, and to which of the two, is chance: so there are more until each has died.
      const alive = () => Object.keys(armed).some((name) => cluster.replica(name).running);
      for (let more = 0; more < 20 && alive(); more += 1) await ledger.traffic({ sessions: 5, messages: 2 });
      await Promise.all(Object.keys(armed).map((name) => cluster.replica(name).gone()));
      figures = await ledger.check();
    } catch (error) {
      throw new Error(`what was there:\n${await cluster.told(since)}`, { cause: error });
    } finally {
      ledger.close();
    }
  }, 60_000);

  test.each(Object.entries(armed))('%s at %s: every message has its one answer', async (name, point) => {
    const killed = cluster.replica(name).process;
    expect(killed.exit()).toEqual({ code: null, signal: 'SIGKILL' });
    expect(killed.logs.at(-1)).toMatchObject({ event: 'fail_point.reached', fail_point: point });
    expect(figures.accepted).toBeGreaterThanOrEqual(30);
    expect(figures.finals).toBe(figures.accepted);
  });
});
