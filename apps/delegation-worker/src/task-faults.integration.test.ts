import { spawnService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, lines, noteFile, startHarness } from '../test/delegation-harness.ts';

let harness: Harness;

beforeAll(async () => {
  harness = await startHarness();
});
afterAll(async () => {
  await harness?.close();
});

const named = (file: string) => lines(file).map((line) => line.split(' ')[0]);

test('a task whose process is killed is taken over, and each of its steps has had its effect once', async () => {
  // The rows of the killed process are sent by the relay.
  await using relay = await spawnService('outbox-sync', harness.env);
  await using first = await harness.start();
  const file = noteFile();
  const id = await harness.submit({
    handler: 'three_steps',
    input: { file, ms: 0, after: 'two', wait: 60_000 },
  });
  await waitFor(
    () =>
      harness.database.query("SELECT FROM delegation_worker.steps WHERE name = 'two' AND task_id = $1", [id]),
    (found) => found.length === 1,
  );
  first.kill('SIGKILL');
  await first.exited;
  // The input is the submission's: the second run would pause as well, so it is told not to.
  await harness.database.query(
    `UPDATE delegation_worker.runs SET payload = jsonb_set(payload, '{task,input,wait}', '0') WHERE id = $1`,
    [id],
  );
  await using second = await harness.start({}, { ready: false });
  expect(await harness.reaches(id, 'completed', 30_000)).toMatchObject({ attempt: 2 });
  expect(named(file)).toEqual(['one', 'two', 'three']);
  expect(new Set(lines(file).map((line) => line.split(' ')[2]))).toEqual(
    new Set([String(first.pid), String(second.pid)]),
  );
  expect(harness.statuses(id)).toEqual(['running', 'running', 'completed']);
  expect(await second.stop()).toMatchObject({ code: 0 });
  expect(await relay.stop()).toMatchObject({ code: 0 });
}, 90_000);

test('the end of a task whose process is killed does not wait for a slot of another', async () => {
  await using relay = await spawnService('outbox-sync', harness.env);
  const one = { DELEGATION_MAX_CONCURRENT: '1' };
  await using first = await harness.start(one);
  const left = await harness.submit({ handler: 'slow' });
  await harness.reaches(left, 'running');
  const file = noteFile();
  await using second = await harness.start(one);
  const busy = await harness.submit({ handler: 'slow', input: { file } });
  await waitFor(
    () => lines(file),
    ([pid]) => pid === String(second.pid),
    { timeoutMs: 15_000 },
  );
  first.kill('SIGKILL');
  await first.exited;
  // As a replica says it that has read the cancel, without the wait for the partitions of the killed one.
  const sql = `SELECT FROM delegation_worker.work_cancel('acme', $1, NULL, '{"why": "cancelled"}')`;
  expect(await harness.database.query(sql, [left])).toHaveLength(1);
  expect(await harness.reaches(left, 'cancelled')).toMatchObject({ attempt: 2 });
  expect(harness.statuses(busy)).toEqual(['running', 'running']);
  second.kill('SIGKILL'); // it would give the busy one 20 s
  expect(await relay.stop()).toMatchObject({ code: 0 });
}, 60_000);

test('two replicas share the tasks, and each runs once; a stop hands over what runs', async () => {
  await using first = await harness.start();
  await using second = await harness.start();
  const file = noteFile();
  const ids = await Promise.all(
    Array.from({ length: 30 }, () => harness.submit({ handler: 'three_steps', input: { file, ms: 20 } })),
  );
  await Promise.all(ids.map((id) => harness.reaches(id, 'completed')));
  expect(lines(file)).toHaveLength(90);
  const once = new Set(lines(file).map((line) => line.split(' ')[1]));
  expect(once.size).toBe(90);

  const long = noteFile();
  const id = await harness.submit({
    handler: 'three_steps',
    input: { file: long, ms: 0, after: 'one', wait: 3_000 },
  });
  await waitFor(
    () => lines(long),
    (found) => found.length > 0,
  );
  const pid = Number(lines(long)[0]?.split(' ')[2]);
  const [holder, other] = first.pid === pid ? [first, second] : [second, first];
  expect(await holder.stop()).toMatchObject({ code: 0 });
  await harness.reaches(id, 'completed');
  expect(named(long)).toEqual(['one', 'two', 'three']);
  expect(await other.stop()).toMatchObject({ code: 0 });
}, 90_000);
