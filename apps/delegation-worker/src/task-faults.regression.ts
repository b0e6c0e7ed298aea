import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { spawnService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, lines, noteFile, startHarness } from '../test/delegation-harness.ts';
import { startReceiver } from '../test/webhook-receiver.ts';

let harness: Harness;
let proxy: FaultProxy;

beforeAll(async () => {
  harness = await startHarness();
  proxy = await startFaultProxy({ url: harness.database.url });
});
afterAll(async () => {
  await harness?.close();
  await proxy?.close();
});

const named = (file: string) => lines(file).map((line) => line.split(' ')[0]);

test('a step that dies between its effect and its commit runs again, under the same key', async () => {
  await using relay = await spawnService('outbox-sync', harness.env);
  await using first = await harness.start({ FAIL_POINT: 'task.step_done:2' });
  const file = noteFile();
  const id = await harness.submit({ handler: 'three_steps', input: { file, ms: 0 } });
  await first.exited;
  await using second = await harness.start({}, { ready: false });
  expect(await harness.reaches(id, 'completed', 30_000)).toMatchObject({ attempt: 2 });
  expect(named(file)).toEqual(['one', 'two', 'two', 'three']);
  const keys = lines(file).map((line) => line.split(' ')[1]);
  expect(keys[1]).toBe(keys[2]);
  expect(await second.stop()).toMatchObject({ code: 0 });
  expect(await relay.stop()).toMatchObject({ code: 0 });
}, 90_000);

test('an outcome that cannot be stored now is stored when the database is back', async () => {
  await using service = await harness.start({ DATABASE_URL: proxy.url, DELEGATION_LEASE_MS: '20000' });
  const file = noteFile();
  const id = await harness.submit({ handler: 'three_steps', input: { file, ms: 600 } });
  await waitFor(
    () => lines(file),
    (found) => found.length === 1,
  );
  await proxy.refuse();
  await waitFor(
    () => service.logs.some(({ event }) => event.startsWith('work.heartbeat')),
    (failed) => failed,
  );
  await proxy.heal();
  expect(await harness.reaches(id, 'completed', 30_000)).toMatchObject({ attempt: 1 });
  expect(named(file)).toEqual(['one', 'two', 'three']);
  await service.stop();
}, 90_000);

test('a process that stood still past its lease changes nothing when it wakes', async () => {
  await using relay = await spawnService('outbox-sync', harness.env);
  await using first = await harness.start();
  const file = noteFile();
  const id = await harness.submit({ handler: 'three_steps', input: { file, ms: 4_000 } });
  await waitFor(
    () => lines(file),
    (found) => found.length === 1,
  );
  first.kill('SIGSTOP');
  await using second = await harness.start({}, { ready: false });
  await waitFor(
    () => lines(file),
    (found) => found.length === 2,
    { timeoutMs: 20_000 },
  );
  first.kill('SIGCONT');
  expect(await harness.reaches(id, 'completed', 40_000)).toMatchObject({ attempt: 2 });
  // The first step was under way in the one that stood still, so it ran twice, under one key; the others once.
  expect(named(file)).toEqual(['one', 'one', 'two', 'three']);
  const ends = harness.updates(id).filter(({ status }) => status === 'completed');
  expect(new Set(ends.map(({ seq }) => seq)).size).toBe(1);
  expect(await first.stop()).toMatchObject({ code: 0 });
  expect(await second.stop()).toMatchObject({ code: 0 });
  await relay.stop();
}, 90_000);

test('a process that dies when a webhook was taken calls it again, under the same id', async () => {
  const receiver = await startReceiver(harness.env.WEBHOOK_SIGNING_SECRET);
  await using relay = await spawnService('outbox-sync', harness.env);
  await using first = await harness.start({ FAIL_POINT: 'webhook.answered' });
  const id = await harness.submit({ callback_url: receiver.hook });
  await first.exited;
  await using second = await harness.start({}, { ready: false });
  const [before, after] = await receiver.received(id, 2, 30_000);
  expect(after).toMatchObject({ webhook_id: before?.webhook_id, repeat: true, verdict: 'ok' });
  await second.log('webhook.delivered', ({ task_id }) => task_id === id);
  expect(await second.stop()).toMatchObject({ code: 0 });
  await relay.stop();
  await receiver.stop();
}, 90_000);

test('tasks go on while the broker is away, and all that was told meanwhile is told in order when it is back', async () => {
  await using relay = await spawnService('outbox-sync', harness.env);
  const [host = '', port] = harness.env.KAFKA_BOOTSTRAP_SERVERS.split(':');
  const broker = await startFaultProxy({ host, port: Number(port), kafka: true });
  await using service = await harness.start({ KAFKA_BOOTSTRAP_SERVERS: broker.address });
  const file = noteFile();
  const receiver = await startReceiver(harness.env.WEBHOOK_SIGNING_SECRET);
  const id = await harness.submit({
    handler: 'three_steps',
    input: { file, ms: 2_000 },
    callback_url: receiver.hook,
  });
  const behind = await harness.submit({ handler: 'three_steps', input: { file: noteFile(), ms: 0 } });
  await harness.reaches(behind, 'completed');
  await waitFor(
    () => lines(file),
    (found) => found.length > 0,
  );
  await broker.refuse();
  await waitFor(
    () =>
      harness.database.query(
        'SELECT 1 FROM delegation_worker.tasks WHERE task_id = $1 AND ended_at IS NOT NULL',
        [id],
      ),
    (found) => found.length === 1,
    { timeoutMs: 20_000, label: 'the end of the task, without a broker' },
  );
  await receiver.received(id);
  // Its own process cannot send: the relay does.
  expect(await harness.reaches(id, 'completed', 30_000)).toMatchObject({ attempt: 1 });
  const late = await harness.submit({});
  await broker.heal();
  await harness.reaches(late, 'completed', 60_000);
  for (const task of [id, behind, late]) expect(harness.statuses(task)).toEqual(['running', 'completed']);
  expect(named(file)).toEqual(['one', 'two', 'three']);
  await service.stop();
  await relay.stop();
  await broker.close();
  await receiver.stop();
}, 120_000);
