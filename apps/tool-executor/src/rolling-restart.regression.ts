import type { ToolOutcomeReported } from '@signalbox/contracts/tool-results';
import { spawnService } from '@signalbox/testkit/service';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, startHarness } from '../test/executor-harness.ts';
import { tools } from '../test/limit-tools.ts';

// No lease has to run out here; a short one would, where a claim's answer takes a second and a half (seen at load 30).
const lease = { TOOL_EXECUTOR_LEASE_MS: '10000' };
let harness: Harness;

beforeAll(async () => {
  harness = await startHarness(tools);
});
afterAll(() => harness?.close());

test('a rolling restart under load runs every call once: none that may run once is told as unknown', async () => {
  await using _relay = await spawnService('outbox-sync', harness.env);
  let services = [await harness.start(lease), await harness.start(lease)];
  const outcomes: ToolOutcomeReported[] = [];
  let restarting = true;
  // Each asks again when it is answered: the load is what the machine can take.
  const load = async () => {
    while (restarting) {
      const callId = await harness.ask({ tool: 'echo_once', arguments: { text: 'once' } });
      outcomes.push(await harness.outcome(callId, 1, 30_000));
    }
  };
  const restart = async () => {
    for (const old of services) {
      const next = await harness.start(lease);
      services = [...services, next];
      expect(await old.stop()).toMatchObject({ code: 0 });
    }
    restarting = false;
  };
  try {
    await Promise.all([...Array.from({ length: 12 }, load), restart()]);
    expect(outcomes.length).toBeGreaterThan(12);
    expect(outcomes.filter(({ outcome }) => outcome !== 'ok')).toEqual([]);
    const [again] = await harness.database.query<{ n: number }>(
      'SELECT count(*)::int AS n FROM tool_executor.calls WHERE attempt > 1',
    );
    expect(again?.n).toBe(0);
  } finally {
    await Promise.all(services.map((each) => each[Symbol.asyncDispose]()));
  }
}, 90_000);
