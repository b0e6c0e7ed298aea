import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Cluster, startCluster } from './cluster.ts';
import { type Breakage, runCrashCase } from './crash-case.ts';

const places = [
  ['accept.committed', 'gateway-1'],
  ['outbox.committed', 'gateway-1'],
  ['outbox.committed', 'worker-1'],
  ['outbox.committed', 'executor-1'],
  ['outbox.published', 'gateway-1'],
  ['outbox.published', 'worker-1'],
  ['outbox.published', 'executor-1'],
  ['relay.sent', 'relay-1'],
  ['intake.committed', 'worker-1'],
  ['intake.committed', 'executor-1'],
  ['turn.step_done', 'worker-1'],
  ['turn.deltas_acknowledged', 'worker-1'],
  ['call.done', 'executor-1'],
  ['stream.stored', 'gateway-1'],
  ['stream.appended', 'gateway-1'],
] as const;
const breakages: readonly Breakage[] = ['kill', 'stall', 'cut off from Kafka', 'cut off from Postgres'];

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster();
  cluster.model.setFaults([{ tokensPerSecond: 200 }]);
});
afterAll(() => cluster?.close());

describe.each(places.filter(([point]) => point.startsWith('stream.')))('at %s of %s', (point, at) => {
  test('cut off from Redis: every reader has the same events, in order', async () => {
    const traffic = { sessions: 20, messages: 3, toolMs: 20 };
    const figures = await runCrashCase(cluster, { point, at, breakage: 'cut off from Redis', traffic });
    console.log(JSON.stringify({ point, at, breakage: 'cut off from Redis', ...figures }));
    expect(figures.finals).toBe(60);
  });
});

describe.each(places)('at %s of %s', (point, at) => {
  beforeAll(async () => {
    // A gateway that may hold one row on the fast path leaves all others to the relays: else they would have no work.
    const restarted = cluster.replica('gateway-2');
    if (point === 'relay.sent') await restarted.restart({ OUTBOX_FAST_MAX_ROWS: '1' });
  });
  test.each(breakages)('%s: every message has its one answer, in order', async (breakage) => {
    const traffic = { sessions: 20, messages: 3, toolMs: 20 };
    const figures = await runCrashCase(cluster, { point, at, breakage, traffic });
    console.log(JSON.stringify({ point, at, breakage, ...figures }));
    expect(figures.finals).toBe(60);
  });
});
