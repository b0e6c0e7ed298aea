import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { spawnService } from '@signalbox/testkit/service';
import { sleep, waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, startHarness } from '../test/executor-harness.ts';
import { tools } from '../test/limit-tools.ts';

let harness: Harness;
let proxy: FaultProxy;

beforeAll(async () => {
  harness = await startHarness(tools);
  proxy = await startFaultProxy({ url: harness.database.url });
});

afterAll(async () => {
  await harness?.close();
  await proxy?.close();
});

const running = (callId: string) =>
  waitFor(
    () => harness.records(callId).some(({ eventType }) => eventType === 'tool.started'),
    (started) => started,
    { label: `${callId} started` },
  );

test('a stop waits for the call that runs, and leaves no process', async () => {
  const service = await harness.start();
  const callId = await harness.ask({ tool: 'sleep', deadlineMs: 1_500 });
  await running(callId);
  const stopped = await service.stop();
  expect(stopped).toMatchObject({ code: 0 });
  expect((await harness.outcome(callId)).outcome).toBe('wall_limit');
  expect(service.logs.map(({ event }) => event)).toEqual(
    expect.arrayContaining(['service.starting', 'config.validated', 'service.started', 'service.stopped']),
  );
}, 90_000);

test('an outcome that cannot be stored now is stored when the database is back', async () => {
  await using service = await harness.start({ DATABASE_URL: proxy.url, TOOL_EXECUTOR_LEASE_MS: '20000' });
  const callId = await harness.ask({ tool: 'sleep_once', deadlineMs: 1_500 });
  await running(callId);
  await proxy.refuse();
  await sleep(2_500); // the call ends meanwhile
  expect(harness.outcomes(callId)).toEqual([]);
  await proxy.heal();
  expect((await harness.outcome(callId)).outcome).toBe('wall_limit'); // known, so not `unknown`
  await service.stop();
}, 90_000);

test('routes answer at once while broker and database are black holes', async () => {
  await using service = await harness.start({ DATABASE_URL: proxy.url });
  proxy.blackhole();
  await waitFor(
    async () => (await fetch(`${service.url}/ready`)).status,
    (status) => status === 503,
    { timeoutMs: 10_000 },
  );
  for (const [route, status] of [
    ['/live', 200],
    ['/ready', 503],
  ] as const) {
    const began = performance.now();
    expect((await fetch(`${service.url}${route}`)).status).toBe(status);
    expect(performance.now() - began).toBeLessThan(200);
  }
  await proxy.heal();
  await service.ready();
}, 90_000);

/*
 * A's started records may be acknowledged and not yet deleted when it dies; B's outcome then waits behind them for the
 * relay (delivery rule 5), so the relay runs here. It is the last test: the dead member holds its partitions for 6 s.
 */
test('after a crash an idempotent call runs again under its key, any other is told as unknown, a cancelled one as that', async () => {
  await using relay = await spawnService('outbox-sync', harness.env);
  await using first = await harness.start();
  const file = join(mkdtempSync(join(tmpdir(), 'signalbox-test-')), 'tries');
  const again = await harness.ask({ tool: 'note', arguments: { file, tries: 2 } });
  const once = await harness.ask({ tool: 'sleep_once' });
  const cancelled = await harness.ask({ tool: 'sleep_once' });
  await Promise.all([running(again), running(once), running(cancelled)]);
  first.kill('SIGKILL');
  await first.exited;
  expect(await harness.cancelElsewhere(cancelled)).toBe('running');
  await using second = await harness.start({}, { ready: false });
  expect(await harness.outcome(once)).toMatchObject({
    outcome: 'unknown',
    error_code: 'TOOL_OUTCOME_UNKNOWN',
  });
  expect(await harness.outcome(again)).toMatchObject({ outcome: 'ok', output: 'noted' });
  const tries = readFileSync(file, 'utf8').trim().split('\n');
  expect(tries.map((line) => line.replace(/^\d+ /, ''))).toEqual(Array(2).fill(`key of ${again}`));
  expect(await harness.outcome(cancelled)).toMatchObject({ outcome: 'cancelled' });
  // B reads the requests again that A had not committed, and answers them from the stored outcomes.
  await waitFor(
    () => second.logs.some(({ event, topic }) => event === 'consumer.assigned' && topic === 'tool.requests'),
    (assigned) => assigned,
  );
  for (const callId of [once, again, cancelled]) {
    const [told, ...repeats] = harness.outcomes(callId);
    for (const repeat of repeats) {
      expect(repeat).toEqual(told);
    }
  }
  expect(await second.stop()).toMatchObject({ code: 0 });
  expect(await relay.stop()).toMatchObject({ code: 0 });
}, 90_000);
