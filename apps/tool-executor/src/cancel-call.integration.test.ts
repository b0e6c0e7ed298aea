import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, startHarness } from '../test/executor-harness.ts';
import { tools } from '../test/limit-tools.ts';

let harness: Harness;
let service: SpawnedService;
const folder = mkdtempSync(join(tmpdir(), 'signalbox-test-'));

beforeAll(async () => {
  harness = await startHarness(tools);
  service = await harness.start({ TOOL_EXECUTOR_MAX_CONCURRENT: '1' });
});

afterAll(async () => {
  await service?.[Symbol.asyncDispose]();
  await harness?.close();
});

/** A call that runs until somebody ends it, and the pid of its process. */
async function askAndWait(name: string): Promise<{ callId: string; pid: number }> {
  const file = join(folder, name);
  const callId = await harness.ask({ tool: 'note', arguments: { file, tries: 2 } });
  const text = await waitFor(
    () => readFileSync(file, 'utf8'),
    (written) => written.endsWith('\n'),
  );
  return { callId, pid: Number(text.split(' ')[0]) };
}

const gone = (pid: number) =>
  waitFor(
    () => {
      try {
        return process.kill(pid, 0);
      } catch {
        return false;
      }
    },
    (alive) => !alive,
  );
const taken = (callId: string, was: string, times = 1) =>
  waitFor(
    () => service.logs.filter((line) => line.event === 'tool.cancel_taken' && line.call_id === callId),
    (lines) => lines.filter((line) => line.was === was).length >= times,
  );
const state = async (callId: string) =>
  (
    await harness.database.query<{ state: string }>('SELECT state FROM tool_executor.calls WHERE key = $1', [
      callId,
    ])
  )[0]?.state;

test('a call that runs is ended: its process is killed, its outcome stored and sent, once', async () => {
  const { callId, pid } = await askAndWait('running');
  await harness.cancel(callId);
  expect(await harness.outcome(callId)).toMatchObject({
    outcome: 'cancelled',
    error_code: 'TOOL_CANCELLED',
    message: 'cancelled while it ran; whether it took effect is not known',
    tool: 'note',
  });
  await gone(pid);
  expect(harness.records(callId).at(-1)?.headers).toMatchObject({
    reply_to: 'conversation-worker',
    correlation_id: callId,
  });
  expect(await state(callId)).toBe('cancelled');

  // The same cancel again: nothing to cancel. The same request again: answered from the stored outcome, not run.
  await harness.cancel(callId);
  await taken(callId, 'nothing');
  await harness.ask({ tool: 'note', callId, arguments: {} });
  expect(await harness.outcome(callId, 2)).toEqual(harness.outcomes(callId)[0]);
  expect(readFileSync(join(folder, 'running'), 'utf8').trim().split('\n')).toHaveLength(1);
  expect(await service.metric('tool_executor_requests_total', { tool: 'note', outcome: 'cancelled' })).toBe(
    1,
  );
});

test('a call that waits for a slot is ended at once, and never runs', async () => {
  const { callId: busy } = await askAndWait('busy');
  const file = join(folder, 'waiting');
  const waiting = await harness.ask({ tool: 'note', arguments: { file, tries: 1 } });
  await harness.cancel(waiting);
  const outcome = await harness.outcome(waiting);
  expect(outcome).toMatchObject({
    outcome: 'cancelled',
    message: 'cancelled before it began',
    duration_ms: 0,
  });
  await taken(waiting, 'waiting');
  expect(harness.outcomes(busy)).toEqual([]);
  await harness.ask({ tool: 'note', callId: waiting, arguments: { file, tries: 1 } });
  expect(await harness.outcome(waiting, 2)).toEqual(outcome);
  await harness.cancel(busy);
  await harness.outcome(busy);
  // The slot is free again, and whatever waited for it has gone.
  const next = await harness.ask({ tool: 'echo', arguments: { text: 'next' } });
  expect((await harness.outcome(next)).output).toBe('next');
  expect(() => readFileSync(file)).toThrow('ENOENT');
});

test('a call that has ended, an unknown one and one of another tenant are left alone', async () => {
  const ended = await harness.ask({ tool: 'echo', arguments: { text: 'told' } });
  const told = await harness.outcome(ended);
  await harness.cancel(ended);
  await taken(ended, 'nothing');
  const unknown = 'f'.repeat(32);
  await harness.cancel(unknown);
  await taken(unknown, 'nothing');

  const { callId } = await askAndWait('foreign');
  await harness.cancel(callId, 'globex');
  await taken(callId, 'nothing');
  expect(harness.outcomes(callId)).toEqual([]);
  expect(await state(callId)).toBe('running');
  expect(harness.outcomes(ended)).toEqual([told]);
  expect(harness.records(unknown)).toEqual([]);
  await harness.cancel(callId);
  await harness.outcome(callId);
});

test('a cancel that another replica took ends the call within a second', async () => {
  const { callId, pid } = await askAndWait('elsewhere');
  const askedAt = performance.now();
  expect(await harness.cancelElsewhere(callId)).toBe('running');
  await gone(pid);
  // 270 ms in the middle, a beat and a statement at most.
  expect(performance.now() - askedAt).toBeLessThan(1_000);
  expect(await harness.outcome(callId)).toMatchObject({ outcome: 'cancelled' });
});
