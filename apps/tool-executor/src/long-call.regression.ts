import type { SpawnedService } from '@signalbox/testkit/service';
import { sleep, waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, startHarness } from '../test/executor-harness.ts';
import { tools } from '../test/limit-tools.ts';

// The least session timeout that a broker takes by default (group.min.session.timeout.ms), and so the least a service may
// have.
const sessionTimeoutMs = 6_000;
const longMs = 6 * sessionTimeoutMs + 500;

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness(tools);
});
afterAll(() => harness.close());

const assignments = (services: readonly SpawnedService[]) =>
  services.map(
    ({ logs }) =>
      logs.filter(({ event, topic }) => event === 'consumer.assigned' && topic === 'tool.requests').length,
  );

test('a tool call six times as long as the session timeout causes no rebalance and delays no other session', async () => {
  const env = { TOOL_EXECUTOR_TIMEOUT_MS: '60000', KAFKA_SESSION_TIMEOUT_MS: String(sessionTimeoutMs) };
  await using one = await harness.start(env);
  await using two = await harness.start(env);
  const services = [one, two];
  await harness.database.query(
    `UPDATE tool_executor.tools SET timeout_ms = 60000 WHERE tenant = 'acme' AND name = 'sleep'`,
  );
  // The second one's joining is over: each has partitions, and nobody was given others for a while.
  let seen = '';
  await waitFor(
    async () => {
      const counts = assignments(services);
      const calm = counts.every((count) => count > 0) && String(counts) === seen;
      seen = String(counts);
      await sleep(3_000);
      return calm;
    },
    (calm) => calm,
    { timeoutMs: 40_000 },
  );
  const before = assignments(services);

  const long = await harness.ask({ tool: 'sleep', deadlineMs: longMs });
  const tookMs: number[] = [];
  while (harness.outcomes(long).length === 0) {
    const askedAt = performance.now();
    const callId = await harness.ask({ tool: 'echo', arguments: { text: 'meanwhile' } });
    expect((await harness.outcome(callId)).output).toBe('meanwhile');
    tookMs.push(performance.now() - askedAt);
    await sleep(100);
  }
  const outcome = await harness.outcome(long);
  expect(outcome.outcome).toBe('wall_limit');
  expect(outcome.duration_ms).toBeGreaterThan(longMs - 2_000);
  expect(assignments(services)).toEqual(before);
  expect(tookMs.length).toBeGreaterThan(100);
  // 54 ms in the middle and 480 ms at most, on two cores with other things to do.
  expect(Math.max(...tookMs)).toBeLessThan(sessionTimeoutMs / 2);
  expect(tookMs.toSorted((a, b) => a - b)[tookMs.length >> 1]).toBeLessThan(250);
}, 120_000);
