import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cluster, startCluster } from './cluster.ts';
import { createLedger, type Ledger } from './ledger.ts';
import { makeMessage } from './messages.ts';
import type { PartName } from './parts.ts';
import { type SteadyTraffic, startSteadyTraffic } from './steady-traffic.ts';

const leaseMs = 5_000;
/** From the cut until every session had an answer to a message that was posted after it, nothing being healed. */
const answeredBoundMs = 60_000;

const cuts: readonly [string, PartName][] = [
  ['gateway-1', 'kafka'],
  ['gateway-1', 'postgres'],
  ['gateway-1', 'redis'],
  ['worker-1', 'kafka'],
  ['worker-1', 'postgres'],
  ['executor-1', 'kafka'],
  ['executor-1', 'postgres'],
  ['relay-1', 'kafka'],
  ['relay-1', 'postgres'],
];

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster({
    settings: { TURN_LEASE_MS: String(leaseMs), TOOL_EXECUTOR_LEASE_MS: String(leaseMs) },
    settingsOf: { gateway: { READY_GRACE_MS: '3000' } },
  });
  cluster.model.setFaults([{ tokensPerSecond: 20 }]);
});
afterAll(() => cluster?.close());

/** Turns of six seconds, begun on both workers: some are in the hands of the one that is cut off. */
async function longTurns(ledger: Ledger): Promise<void> {
  const talks = Array.from({ length: 6 }, (_, index) => ledger.open(index % 2 === 0 ? 0 : 1));
  await Promise.all(
    talks.map((talk) => talk.say(makeMessage('plain', { toolLog: cluster.toolLog, words: 120 }))),
  );
  await waitFor(
    () =>
      talks.filter(
        ({ follower }) => follower?.events.some(({ type }) => type === 'assistant.delta') !== true,
      ),
    (silent) => silent.length === 0,
    { timeoutMs: 30_000, label: 'the first text of every long turn' },
  );
}

test.each(cuts)(
  '%s is cut off from %s alone and stays so: nobody waits for it',
  async (name, part) => {
    const ledger = createLedger(cluster);
    const replica = cluster.replica(name);
    const since = new Date();
    let traffic: SteadyTraffic | undefined;
    try {
      // A gateway that may hold one row on the fast path leaves all others to the relays: else they would have no work.
      if (name === 'relay-1') await cluster.replica('gateway-2').restart({ OUTBOX_FAST_MAX_ROWS: '1' });
      traffic = await startSteadyTraffic(ledger, { sessions: 20, pauseMs: 4_000, toolMs: 20 });
      await longTurns(ledger);
      await replica.cut(part);
      const answeredMs = await traffic.answeredAgain(120_000);
      await traffic.stop();
      const lastPostAt = performance.now();
      await ledger.ended(120_000);
      const endedMs = performance.now() - lastPostAt;
      await cluster.mend();
      const figures = await ledger.check();
      const [answered, ended] = [Math.round(answeredMs), Math.round(endedMs)];
      console.log(
        JSON.stringify({ cut: `${name} from ${part}`, answeredMs: answered, endedMs: ended, ...figures }),
      );
      expect(figures.finals).toBe(figures.accepted);
      expect(answeredMs).toBeLessThan(answeredBoundMs);
      expect(figures.longestGapMs).toBeLessThan(answeredBoundMs);
    } catch (error) {
      throw new Error(`${name} cut off from ${part}:\n${await cluster.told(since)}`, { cause: error });
    } finally {
      await traffic?.stop().catch(() => undefined);
      ledger.close();
      await cluster.mend();
    }
  },
  300_000,
);
