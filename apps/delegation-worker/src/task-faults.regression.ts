import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { spawnService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, lines, noteFile, startHarness } from '../test/delegation-harness.ts';

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
