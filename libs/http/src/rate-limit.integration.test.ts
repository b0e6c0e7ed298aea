import { newId } from '@signalbox/contracts/ids';
import { openRedis } from '@signalbox/redis/redis';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { expect, it } from 'vitest';
import { createRateLimit } from './rate-limit.ts';

const forEver = 3_600_000;

it('is one limit for all replicas, each goes on alone while Redis is away, and nothing is counted twice', async () => {
  await using proxy = await startFaultProxy({ url: testInfra().redisUrl });
  const open = () =>
    openRedis({
      url: proxy.url,
      log: silentLog,
      metrics: silentMetrics,
      commandTimeoutMs: 300,
      reconnectCapMs: 50,
    });
  const [redisA, redisB] = [open(), open()];
  await Promise.all([redisA.ready(3000), redisB.ready(3000)]);
  const name = `test-${newId()}`;
  const replica = (redis: typeof redisA) =>
    createRateLimit({ name, limit: 10, windowMs: forEver, redis, syncMs: 1_000_000, now: () => forEver * 7 });
  const [a, b] = [replica(redisA), replica(redisB)];
  const take = (limit: typeof a, count: number) =>
    Array.from({ length: count }, () => limit.take('acme').allowed);

  take(a, 4);
  await a.sync();
  take(b, 3);
  await b.sync(); // b learns of a's four
  expect(b.take('acme').remaining).toBe(2); // 4 + 3 + this one
  await b.sync();
  take(a, 1);
  await a.sync(); // a learns of b's four: nine are used
  expect(take(a, 2)).toEqual([true, false]);

  await proxy.refuse();
  await a.sync(); // fails: what was counted stays counted here, and is sent later
  expect(a.take('acme').allowed).toBe(false);
  await proxy.heal();
  await redisA.ready(3000);
  await a.sync();
  await redisB.ready(3000);
  await b.sync();
  expect(take(b, 1)).toEqual([true]); // b has not asked since, and lets one through: the overshoot of one exchange
  await b.sync();
  expect(take(b, 1)).toEqual([false]);
  expect(await redisA.run((client) => client.get(`rate:${name}:acme:7`))).toBe('11');

  a.stop();
  b.stop();
  await redisA.run((client) => client.del(`rate:${name}:acme:7`));
  await Promise.all([redisA.close(), redisB.close()]);
});
