import { newId } from '@signalbox/contracts/ids';
import { migrate } from '@signalbox/postgres/migrate';
import { silentLog } from '@signalbox/telemetry/silent';
import { ownTopics } from '@signalbox/testkit/topics';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cluster, startCluster } from './cluster.ts';
import { createLedger } from './ledger.ts';
import { type PartName, partNames } from './parts.ts';
import { expectWaiting, readinessOf, readyBoundMs, untilWell } from './start-order.ts';

/** One of each service on parts of its own, which appear when the test says so. */
let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster({
    ...{ gateways: 1, workers: 1, executors: 1, relays: 1, side: 1, parts: 'own', proxies: false },
  });
});
afterAll(() => cluster?.close());

const orders: readonly (readonly PartName[])[] = [
  ['kafka', 'postgres', 'redis'],
  ['kafka', 'redis', 'postgres'],
  ['postgres', 'kafka', 'redis'],
  ['postgres', 'redis', 'kafka'],
  ['redis', 'kafka', 'postgres'],
  ['redis', 'postgres', 'kafka'],
];

async function stopAll(): Promise<void> {
  await Promise.all(cluster.replicas.map((replica) => replica.stop(40_000)));
}

test.each(orders)(
  'services that are there first wait alive, and are ready within 15 s of the last of %s, %s, %s',
  async (...order) => {
    await stopAll();
    for (const part of partNames) await cluster.parts.kill(part);
    await Promise.all(cluster.replicas.map((replica) => replica.start()));
    const away = new Set(partNames);
    await expectWaiting(cluster.replicas, away);
    for (const part of order.slice(0, -1)) {
      await cluster.parts.startAgain(part);
      away.delete(part);
      await expectWaiting(cluster.replicas, away);
    }
    await cluster.parts.startAgain(order.at(-1) ?? 'redis');
    const took = await untilWell(cluster.replicas);
    console.log(`ready after ${order.join(', ')}: ${JSON.stringify(took)}`);
    for (const ms of Object.values(took)) expect(ms).toBeLessThan(readyBoundMs);

    const ledger = createLedger(cluster);
    await ledger.traffic({ sessions: 4, messages: 1 });
    await ledger.check();
    ledger.close();
  },
  180_000,
);

test('on a database that is made and migrated late they wait with the reason schema', async () => {
  await stopAll();
  const name = `signalbox_late_${newId().slice(-12)}`;
  const at = (url: string) => Object.assign(new URL(url), { pathname: `/${name}` }).href;
  const settings = { DATABASE_URL: at(cluster.database.url) };
  await Promise.all(cluster.replicas.map((replica) => replica.start(settings)));
  const isLacking = async () => {
    for (const replica of cluster.replicas)
      await expect
        .poll(() => readinessOf(replica), { timeout: 30_000 })
        .toMatchObject({
          status: 503,
          body: { status: 'unready', reason: 'schema' },
        });
  };
  await isLacking();
  await cluster.database.query(`create database ${name}`);
  await isLacking();
  const ownerUrl = at(cluster.database.ownerUrl);
  await migrate({ ownerUrl, serviceUrl: settings.DATABASE_URL, log: silentLog });
  const took = await untilWell(cluster.replicas);
  console.log(`ready after the migration: ${JSON.stringify(took)}`);
  await stopAll();
  await cluster.database.query(`drop database ${name} with (force)`);
}, 180_000);

test('with topics that are made late they wait with the reason topics', async () => {
  const late = ownTopics(cluster.parts.infra);
  await late.create('conversation.outbound', 'tool.results', 'tool.catalog');
  await Promise.all(
    cluster.replicas.map((replica) =>
      replica.start({ KAFKA_TOPIC_PREFIX: late.prefix, KAFKA_GROUP_ID: late.prefix, READY_GRACE_MS: '0' }),
    ),
  );
  for (const replica of cluster.replicas.filter(({ service }) => service !== 'outbox-sync'))
    await expect
      .poll(() => readinessOf(replica), { timeout: 30_000 })
      .toMatchObject({
        status: 503,
        body: { status: 'unready', reason: 'topics' },
      });
  await late.create();
  const took = await untilWell(cluster.replicas);
  console.log(`ready after the topics: ${JSON.stringify(took)}`);
  await stopAll();
  await late.drop();
}, 180_000);
