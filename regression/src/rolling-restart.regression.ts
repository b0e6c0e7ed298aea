import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { type Cluster, startCluster } from './cluster.ts';
import { startConstantLoad } from './constant-load.ts';
import { createLedger } from './ledger.ts';

/** The balancer asks /ready four times a second; on a busy machine an answer takes its time. */
const drainDelayMs = 2_000;

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster({
    proxies: false,
    settings: {
      DRAIN_DELAY_MS: String(drainDelayMs),
      // As in production: a busy machine must not look like a dead holder.
      ...{ TURN_LEASE_MS: '10000', TOOL_EXECUTOR_LEASE_MS: '10000', KAFKA_REQUEST_TIMEOUT_MS: '10000' },
    },
  });
});
afterAll(() => cluster?.close());

test('every replica of every service is replaced under load: no request fails, no turn is begun anew', async () => {
  cluster.model.setFaults([{ tokensPerSecond: 100 }]);
  const load = startConstantLoad(cluster);
  const ledger = createLedger(cluster);
  const restarting = new AbortController();
  onTestFinished(() => restarting.abort());
  const traffic = (async () => {
    while (!restarting.signal.aborted) await ledger.traffic({ sessions: 6, messages: 4, pauseMs: 600 });
  })();
  traffic.catch(() => undefined);
  const startedAt = performance.now();
  const rows: Record<string, number | string>[] = [];
  // A rolling update goes service by service and waits for nothing but /ready.
  for (const replica of cluster.replicas) {
    const { code, ms: stopMs } = await replica.stop(40_000);
    const stoppedAt = performance.now();
    await replica.start();
    await replica.ready(60_000);
    const readyMs = Math.round(performance.now() - stoppedAt);
    rows.push({ replica: replica.name, code: code ?? 'none', stopMs: Math.round(stopMs), readyMs });
  }
  const restartedMs = performance.now() - startedAt;
  restarting.abort();
  await traffic;
  await load.stop();
  const { turns } = await load.checkTurns();
  const figures = await ledger.check();
  ledger.close();

  const sorted = [...load.latenciesMs].sort((a, b) => a - b);
  console.table(rows);
  console.log(
    JSON.stringify({
      restartedMs: Math.round(restartedMs),
      answered: load.answered,
      failed: load.failures.length,
      p50Ms: Math.round(sorted[Math.floor(sorted.length * 0.5)] ?? 0),
      p99Ms: Math.round(sorted[Math.floor(sorted.length * 0.99)] ?? 0),
      longestMs: Math.round(sorted.at(-1) ?? 0),
      turns,
      ...figures,
    }),
  );
  expect(load.failures).toEqual([]);
  expect(figures).toMatchObject({ postRetries: 0, resumedTurns: 0, unknownCalls: 0 });
  expect(figures.finals).toBe(figures.accepted);
  expect(rows.map(({ code }) => code)).toEqual(rows.map(() => 0));
  expect(load.answered).toBeGreaterThan(500);
  // Streams went to the other gateway in the middle of turns.
  expect(figures.reconnects).toBeGreaterThan(0);
}, 600_000);
