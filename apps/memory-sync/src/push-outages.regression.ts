import { newId } from '@signalbox/contracts/ids';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import {
  type Backend,
  type Harness,
  memory,
  startBackend,
  startHarness,
  tenant,
} from '../test/sync-harness.ts';

let harness: Harness;
let backend: Backend;
let proxy: FaultProxy;
/** Sends what a replica has given up, and what one of them has put behind another's rows. */
let relay: SpawnedService;

beforeAll(async () => {
  [harness, backend] = await Promise.all([startHarness(), startBackend()]);
  proxy = await startFaultProxy({ url: harness.database.url });
  relay = await spawnService('outbox-sync', harness.env);
});
afterEach(() => backend.faults());
afterAll(async () => {
  await relay?.[Symbol.asyncDispose]();
  await harness?.close();
  await Promise.all([backend?.close(), proxy?.close()]);
});

const start = (more: Record<string, string> = {}) =>
  harness.start({ MEMORY_BACKEND_URL: backend.url, ...more });

const sent = async (key: string) => (await backend.effects())[`${tenant} ${key}`];

async function oneEffectEach(): Promise<void> {
  const all = Object.entries(await backend.effects());
  expect(all.filter(([, { effects }]) => effects !== 1)).toEqual([]);
}

test('stopped between the push and its commit for longer than its lease, and woken: another has stored it, once', async () => {
  await using stalled = await start({ FAIL_POINT: 'push.done:1:SIGSTOP' });
  const item = memory('taken, and then nothing');
  await harness.write([item]);
  await stalled.log('fail_point.reached');
  await using _ = await start();
  expect(await harness.inWal(item.memory_id, [1], tenant, 40_000)).toEqual([1]);
  stalled.kill('SIGCONT');
  await stalled.log('work.lease_lost');
  await stalled.ready();
  const next = memory('after the wake-up', { memory_id: item.memory_id });
  await harness.write([next]);
  expect(await harness.inWal(item.memory_id, [1, 2], tenant, 30_000)).toEqual([1, 2]);
  expect(await sent(item.idempotency_key)).toEqual({ sent: 2, effects: 1 });
}, 120_000);

test('killed between the push and its commit, another replica pushes again under the same key: one effect, one version', async () => {
  await using first = await start({ FAIL_POINT: 'push.done' });
  const item = memory('pushed, not stored');
  await harness.write([item]);
  await first.exited;
  expect((await sent(item.idempotency_key))?.effects).toBe(1);
  expect(harness.versions(item.memory_id)).toEqual([]);
  await using _ = await start();
  expect(await harness.inWal(item.memory_id, [1], tenant, 30_000)).toEqual([1]);
  expect(await sent(item.idempotency_key)).toEqual({ sent: 2, effects: 1 });
  await harness.write([item]);
  const last = memory('behind it');
  await harness.write([last], { keyId: item.memory_id });
  await harness.inWal(last.memory_id, [1]);
  expect(harness.versions(item.memory_id)).toEqual([1]);
}, 120_000);

test('the database is away when the backend has answered: its outcome is stored when it is back, without another push', async () => {
  await using _ = await start({ DATABASE_URL: proxy.url, MEMORY_SYNC_LEASE_MS: '20000' });
  await backend.faults({ latencyMs: 500 });
  const item = memory('answered into nothing', {});
  await harness.write([item]);
  await waitFor(backend.requests, (all) =>
    all.some(({ idempotency_key: key }) => key === item.idempotency_key),
  );
  await proxy.refuse();
  await waitFor(
    () => sent(item.idempotency_key),
    (counts) => counts?.effects === 1,
  );
  expect(harness.versions(item.memory_id)).toEqual([]);
  await proxy.heal();
  expect(await harness.inWal(item.memory_id, [1], tenant, 30_000)).toEqual([1]);
  expect(await sent(item.idempotency_key)).toEqual({ sent: 1, effects: 1 });
}, 120_000);

test('three replicas, one killed and one stopped under load, a backend that fails calls of each: each version once and in order', async () => {
  const replicas = await Promise.all([1, 2, 3].map(() => start({ MEMORY_SYNC_MAX_TRIES: '20' })));
  try {
    const firsts = Array.from({ length: 60 }, (_, at) => memory(`load ${at}`));
    const sessions = Array.from({ length: 9 }, newId);
    const orders = ['0', '4', '8'].map((digit) => ({ match: `"${digit}`, times: 4, lostAnswer: true }));
    await backend.faults(...orders, { status: 503, times: 6 });
    for (const [at, item] of firsts.entries()) await harness.write([item], { keyId: sessions[at % 9] ?? '' });
    for (const round of [1, 2, 3]) {
      for (const [at, { memory_id }] of firsts.entries()) {
        await harness.write([memory(`load ${at} again ${round}`, { memory_id })], {
          keyId: sessions[at % 9] ?? '',
        });
      }
      if (round === 1) replicas[0]?.kill('SIGKILL');
      if (round === 2) replicas[1]?.kill('SIGSTOP');
    }
    for (const { memory_id } of firsts) {
      expect(await harness.inWal(memory_id, [1, 2, 3, 4], tenant, 90_000)).toEqual([1, 2, 3, 4]);
    }
    replicas[1]?.kill('SIGCONT');
    await waitFor(
      () => harness.database.query("select 1 from memory_sync.memories where state in ('waiting', 'failed')"),
      (rows) => rows.length === 0,
    );
    for (const { memory_id } of firsts) expect(harness.versions(memory_id)).toEqual([1, 2, 3, 4]);
    await oneEffectEach();
  } finally {
    await Promise.all(replicas.map((each) => each[Symbol.asyncDispose]()));
  }
}, 240_000);

test('what waited for a backend that is configured no more goes to memory.wal as it is', async () => {
  await backend.faults({ status: 503 });
  const item = memory('left behind');
  {
    await using _ = await start();
    await harness.write([item]);
    await waitFor(
      () => harness.states(item.memory_id),
      (rows) => rows[0]?.state === 'waiting',
    );
  }
  await using _ = await harness.start();
  expect(await harness.inWal(item.memory_id, [1], tenant, 20_000)).toEqual([1]);
});
