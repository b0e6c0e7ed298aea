import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cluster, startCluster } from './cluster.ts';
import { createLedger } from './ledger.ts';

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster();
});
afterAll(() => cluster?.close());

test('with nothing broken every message has its one answer, and every reader the same events', async () => {
  cluster.model.setFaults([{ tokensPerSecond: 200 }]);
  const ledger = createLedger(cluster);
  await ledger.traffic({ sessions: 20, messages: 3 });
  const figures = await ledger.check();
  ledger.close();
  console.log(JSON.stringify(figures));
  expect(figures).toMatchObject({ accepted: 60, finals: 60, resumedTurns: 0, unknownCalls: 0, toolRuns: 45 });
});
