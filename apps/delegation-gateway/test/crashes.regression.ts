import { newId } from '@signalbox/contracts/ids';
import { call } from '@signalbox/testkit/api-call';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import type { SseEvent } from '@signalbox/testkit/sse';
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  type DelegationFixture,
  delegationFixture,
  follow,
  handlerTask,
  submit,
} from './delegation-fixture.ts';

/** Deaths between two steps, and cuts, with outbox-sync beside. */

let fixture: DelegationFixture;
let relay: SpawnedService;
let acme: string;

beforeAll(async () => {
  fixture = await delegationFixture();
  relay = await spawnService('outbox-sync', fixture.env);
  acme = fixture.keys.acme;
});
afterAll(async () => {
  await relay?.[Symbol.asyncDispose]();
  await fixture?.close();
});

it('a replica that dies between its commits leaves every update to the next one, once and in order', async () => {
  // The only replica: every partition is its own, and it dies with effects committed and offsets not.
  const dying = await fixture.start({ FAIL_POINT: 'intake.committed:3' });
  const { body } = await submit(dying, acme);
  const stream = await follow(dying, acme, body.task_id);
  await Promise.race([
    dying.exited,
    (async () => {
      for (let seq = 1; seq <= 8 && dying.exit() === undefined; seq += 1) {
        await fixture.tell('acme', body.task_id, [{ seq, status: 'running', progress: `${seq}` }]);
        if (seq < 3) await stream.until((seen) => seen.length >= seq);
      }
    })(),
  ]);
  expect(await dying.exited).toMatchObject({ signal: 'SIGKILL' });
  await stream.ended;
  const seen: SseEvent[] = [...stream.events];
  await fixture.tell('acme', body.task_id, [{ seq: 9, status: 'completed', result: {} }]);

  const other = await fixture.start();
  const lastEventId = seen.at(-1)?.id;
  const rest = await follow(other, acme, body.task_id, lastEventId === undefined ? {} : { lastEventId });
  const seqOf = ({ data }: SseEvent) => (data as { seq: number }).seq;
  const events = await rest.until((all) => all.some((event) => seqOf(event) === 9), 30_000);
  const seqs = [...seen, ...events].map(seqOf);
  expect(seqs).toEqual([...new Set(seqs)].sort((a, b) => a - b));
  const stored = await fixture.db.query<{ position: string; data: string }>(
    'select position, data from delegation_gateway.task_events where task_id = $1 order by position',
    [body.task_id],
  );
  expect(stored.map(({ data }) => JSON.parse(data).seq)).toEqual(seqs);
  await rest.close();
  await other.stop();
}, 60_000);

it.each([
  ['behind its commit', 'outbox.committed'],
  ['behind its send', 'outbox.published'],
])(
  'a replica that dies %s has kept what it was about to answer, once',
  async (_, point) => {
    const dying = await fixture.start({ FAIL_POINT: point });
    const task = { ...handlerTask, task_id: newId() };
    const key = newId();
    await submit(dying, acme, task, { 'idempotency-key': key }).catch(() => undefined);
    expect(await dying.exited).toMatchObject({ signal: 'SIGKILL' });
    const [record] = await fixture.records('acme', task.task_id, 1);
    expect(record).toMatchObject({ type: 'task.submitted', value: { task_id: task.task_id } });

    // The client repeats what it has no answer to, with its key or without. (A group of its own: it need not wait until
    // the dead member is given up.)
    const other = await fixture.start({ KAFKA_GROUP_ID: `${fixture.topics.prefix}${point}.` });
    for (const headers of [{ 'idempotency-key': key }, undefined]) {
      const again = await submit(other, acme, task, headers);
      expect([again.status, again.headers.get('idempotency-replayed')]).toEqual([202, 'true']);
      expect(again.body).toEqual({ task_id: task.task_id, status: 'queued' });
    }
    const eventIds = (await fixture.records('acme', task.task_id, 1)).map(({ eventId }) => eventId);
    expect(new Set(eventIds).size).toBe(1);
    await other.stop();
  },
  60_000,
);

it('a replica that is cut off from the database for good sends its readers to another one', async () => {
  await using database = await startFaultProxy({ url: fixture.database.url });
  const cutOff = await fixture.start({ DATABASE_URL: database.url, READY_GRACE_MS: '1500' });
  const { body } = await submit(cutOff, acme);
  const stream = await follow(cutOff, acme, body.task_id);
  await database.refuse();
  expect(await stream.ended).toBe('server');
  expect(stream.retryMs()).toBeGreaterThanOrEqual(250);
  await cutOff.log('streams.sent_away');
  expect((await call(cutOff, '/ready')).body).toMatchObject({ reason: 'database' });
  const refused = await submit(cutOff, acme);
  expect([refused.status, refused.body.error_code]).toEqual([503, 'DATABASE_UNAVAILABLE']);
  expect(refused.headers.get('retry-after')).toMatch(/\d/);
  await database.heal();
  await cutOff.ready();
  const back = await stream.reconnect();
  await fixture.tell('acme', body.task_id, [{ seq: 1, status: 'running' }]);
  await back.until((seen) => seen.length === 1);
  await back.close();
  await cutOff.stop();
}, 60_000);
