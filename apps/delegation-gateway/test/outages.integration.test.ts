import { newId } from '@signalbox/contracts/ids';
import { call } from '@signalbox/testkit/api-call';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type DelegationFixture, delegationFixture, handlerTask, submit } from './delegation-fixture.ts';

/** Parts that go away. Processes that die between two steps are in crashes.regression.ts. */

let fixture: DelegationFixture;
let relay: SpawnedService;
let kafka: FaultProxy;
let acme: string;

beforeAll(async () => {
  fixture = await delegationFixture();
  const [host = '', port = ''] = testInfra().kafka.split(':');
  [relay, kafka] = await Promise.all([
    spawnService('outbox-sync', fixture.env),
    startFaultProxy({ host, port: Number(port), kafka: true }),
  ]);
  acme = fixture.keys.acme;
});
afterAll(async () => {
  await kafka?.heal();
  await relay?.[Symbol.asyncDispose]();
  await fixture?.close();
  await kafka?.close();
});

it('goes on taking tasks, cancels and reads while Kafka is away, and sends them later in order', async () => {
  const service = await fixture.start({
    KAFKA_BOOTSTRAP_SERVERS: kafka.address,
    READY_GRACE_MS: '3000',
  });
  await kafka.refuse();
  expect((await call(service, '/ready')).status).toBe(200);
  const tasks = await Promise.all(Array.from({ length: 4 }, () => submit(service, acme)));
  expect(tasks.map(({ status }) => status)).toEqual(tasks.map(() => 202));
  for (const { body } of tasks) {
    const path = `/v1/delegation/task/${body.task_id}`;
    const asked = await call(service, `${path}/cancel`, { key: acme, body: {} });
    expect(asked.status).toBe(202);
    expect((await call(service, path, { key: acme })).body.status).toBe('queued');
  }
  const unready = await waitFor(
    () => call(service, '/ready'),
    ({ status }) => status === 503,
    { label: 'the end of the grace' },
  );
  expect(unready.body).toMatchObject({ status: 'unready', reason: 'kafka' });
  expect((await call(service, '/health')).body.checks).toMatchObject({ database: { status: 'ok' } });
  expect((await submit(service, acme)).status).toBe(202);
  await kafka.heal();
  for (const { body } of tasks) {
    const sent = await fixture.records('acme', body.task_id, 2);
    expect([...new Set(sent.map(({ type }) => type))]).toEqual(['task.submitted', 'task.cancel_requested']);
  }
  await service.stop();
}, 60_000);

it('a full outbox refuses what is new, and no repeat', async () => {
  const full = await fixture.start({ KAFKA_BOOTSTRAP_SERVERS: kafka.address, OUTBOX_MAX_ROWS: '1' });
  const task = { ...handlerTask, task_id: newId() };
  expect((await submit(full, acme, task)).status).toBe(202);
  await relay.stop();
  await kafka.refuse();
  await waitFor(
    () => submit(full, acme),
    ({ status }) => status === 503,
    { label: 'a full outbox' },
  );
  const refused = await submit(full, acme, { ...handlerTask, task_id: newId() });
  expect([refused.status, refused.body.error_code]).toEqual([503, 'OUTBOX_FULL']);
  expect(refused.headers.get('retry-after')).toBe('1');
  expect((await submit(full, acme, task)).status).toBe(202);
  const cancelled = await call(full, `/v1/delegation/task/${task.task_id}/cancel`, { key: acme, body: {} });
  expect([cancelled.status, cancelled.body.error_code]).toEqual([503, 'OUTBOX_FULL']);
  await kafka.heal();
  await full.stop();
}, 60_000);
