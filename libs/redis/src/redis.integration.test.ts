import { newId } from '@signalbox/contracts/ids';
import { isFault } from '@signalbox/faults/fault';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { waitFor } from '@signalbox/testkit/wait';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openRedis, type Redis, type RedisOptions } from './redis.ts';

const prefix = `redis-test:${newId()}:`;
let proxy: FaultProxy;
const opened: Redis[] = [];

beforeEach(async () => {
  proxy = await startFaultProxy({ url: testInfra().redisUrl });
});

afterEach(async () => {
  await proxy.heal();
  await Promise.all(opened.splice(0).map((redis) => redis.close()));
  await proxy.close();
});

async function open(options: Partial<RedisOptions> = {}): Promise<Redis> {
  const redis = openRedis({
    url: proxy.url,
    log: silentLog,
    metrics: silentMetrics,
    commandTimeoutMs: 300,
    connectTimeoutMs: 300,
    reconnectCapMs: 100,
    ...options,
  });
  opened.push(redis);
  await redis.ready(3000);
  return redis;
}

/** What a call ended with, and after how long. */
async function outcome(call: Promise<unknown>): Promise<{ code: string; ms: number }> {
  const startedAt = performance.now();
  const code = await call.then(
    () => 'ok',
    (error: unknown) => (isFault(error) ? error.code : String(error)),
  );
  return { code, ms: performance.now() - startedAt };
}

describe('commands', () => {
  it('run, in a pipeline too, and a refusal is no outage', async () => {
    const redis = await open();
    const key = `${prefix}a`;
    await redis.run((client) => client.set(key, '1', 'PX', 60_000));
    const replies = await redis.pipeline((pipeline) => pipeline.incr(key).incr(key).get(key));
    expect(replies).toEqual([2, 3, '3']);
    expect((await outcome(redis.run((client) => client.lpush(key, 'x')))).code).toBe('INTERNAL_ERROR');
    expect((await outcome(redis.pipeline((pipeline) => pipeline.get(key).lpush(key, 'x')))).code).toBe(
      'INTERNAL_ERROR',
    );
    await redis.run((client) => client.del(key));
  });

  it('run scripts, whether declared before or after the connection was made', async () => {
    const redis = await open();
    const add = redis.script('add', { keys: 1, lua: "return {ARGV[1] + ARGV[2], KEYS[1], 'x'}" });
    expect(await add([`${prefix}s`], [20, '22'])).toEqual([42, `${prefix}s`, 'x']);
    const late = redis.script('late', { keys: 0, lua: 'return ARGV[1]' });
    expect(await late([], ['v'])).toBe('v');
    expect(() => add([], [])).toThrow(/takes 1 keys/);
  });

  it('spread over more connections under load, and never over more than the pool has', async () => {
    const redis = await open({ poolSize: 2 });
    const before = proxy.accepted();
    for (let round = 0; round < 20; round += 1) {
      await Promise.all(Array.from({ length: 200 }, () => redis.run((client) => client.ping())));
    }
    expect(proxy.accepted() - before).toBe(1);
    expect(redis.pending()).toBe(0);
  });
});

describe('while the server is away', () => {
  it('commands fail at once, none waits in memory, and the connection comes back by itself', async () => {
    const redis = await open();
    await proxy.refuse();
    await waitFor(
      () => outcome(redis.run((client) => client.ping())),
      ({ code }) => code === 'REDIS_UNAVAILABLE',
    );
    const startedAt = performance.now();
    const outcomes = await Promise.all(
      Array.from({ length: 1000 }, () => outcome(redis.run((client) => client.incr(`${prefix}never`)))),
    );
    expect(new Set(outcomes.map((each) => each.code))).toEqual(new Set(['REDIS_UNAVAILABLE']));
    expect(performance.now() - startedAt).toBeLessThan(300);
    expect((await outcome(redis.pipeline((pipeline) => pipeline.incr(`${prefix}never`)))).code).toBe(
      'REDIS_UNAVAILABLE',
    );
    expect((await outcome(redis.probe(AbortSignal.timeout(1000)))).code).toBe('REDIS_UNAVAILABLE');

    await proxy.heal();
    await redis.ready(3000);
    // Nothing of the thousand ran late.
    expect(await redis.run((client) => client.get(`${prefix}never`))).toBeNull();
    await expect(redis.probe(AbortSignal.timeout(1000))).resolves.toBeUndefined();
  });

  it('a process starts all the same, and ready() is bounded', async () => {
    await proxy.refuse();
    const redis = openRedis({ url: proxy.url, log: silentLog, metrics: silentMetrics, reconnectCapMs: 50 });
    opened.push(redis);
    expect(await outcome(redis.ready(200))).toMatchObject({ code: 'REDIS_UNAVAILABLE' });
    await proxy.heal();
    await redis.ready(3000);
    expect(await redis.run((client) => client.ping())).toBe('PONG');
  });
});

describe('a black hole', () => {
  it('costs a command its timeout; then the connection is given up and a new one made', async () => {
    const redis = await open();
    const before = proxy.accepted();
    proxy.blackhole();
    const { code, ms } = await outcome(redis.run((client) => client.ping()));
    expect(code).toBe('REDIS_UNAVAILABLE');
    expect(ms).toBeGreaterThan(250);
    expect(ms).toBeLessThan(600);
    await waitFor(
      () => proxy.accepted(),
      (count) => count > before,
      { label: 'another connection' },
    );
    await proxy.heal();
    await waitFor(
      () => redis.run((client) => client.ping()),
      (answer) => answer === 'PONG',
      { timeoutMs: 5000 },
    );
  });

  it('does not hold up the close', async () => {
    const redis = await open();
    proxy.blackhole();
    const startedAt = performance.now();
    await redis.close();
    expect(performance.now() - startedAt).toBeLessThan(600);
    expect((await outcome(redis.run((client) => client.ping()))).code).toBe('REDIS_UNAVAILABLE');
  });
});

describe('the subscriber', () => {
  it('tells its listeners of a gap only when it is subscribed again', async () => {
    const redis = await open();
    const direct = await open({ url: testInfra().redisUrl });
    const channel = `${prefix}c`;
    const heard: string[] = [];
    const subscription = await redis.subscriber().subscribe(channel, {
      onMessage: (message) => heard.push(message),
      onGap: () => heard.push('gap'),
    });
    const publish = (text: string) => direct.run((client) => client.publish(channel, text));
    await publish('1');
    await waitFor(
      () => heard.length,
      (count) => count === 1,
    );

    // lost: nobody hears 2; back: gap, and whatever is published after the gap arrives
    await proxy.refuse();
    await waitFor(
      () => publish('2'),
      (receivers) => receivers === 0,
    );
    await proxy.heal();
    await waitFor(() => heard.includes('gap'), Boolean, { label: 'the gap' });
    expect(await publish('3')).toBe(1);
    await waitFor(
      () => heard.at(-1),
      (last) => last === '3',
    );
    expect(heard.filter((each) => each !== '2')).toEqual(['1', 'gap', '3']);

    await subscription.end();
    expect(await publish('4')).toBe(0);
    expect(redis.subscriber().channels()).toBe(0);
  });

  it('keeps a channel while one listener is left', async () => {
    const redis = await open();
    const channel = `${prefix}d`;
    const heard: string[] = [];
    const [first, second] = await Promise.all([
      redis.subscriber().subscribe(channel, { onMessage: (message) => heard.push(`first ${message}`) }),
      redis.subscriber().subscribe(channel, { onMessage: (message) => heard.push(`second ${message}`) }),
    ]);
    await first.end();
    await redis.run((client) => client.publish(channel, 'x'));
    await waitFor(
      () => heard,
      (all) => all.length === 1,
    );
    expect(heard).toEqual(['second x']);
    await second.end();
  });

  it('refuses a subscription while the server is away, and takes it afterwards', async () => {
    const redis = await open();
    await redis.subscriber().subscribe(`${prefix}e`, { onMessage: () => undefined });
    await proxy.refuse();
    await waitFor(
      () => outcome(redis.subscriber().subscribe(`${prefix}f`, { onMessage: () => undefined })),
      ({ code }) => code === 'REDIS_UNAVAILABLE',
    );
    await proxy.heal();
    await waitFor(
      () => outcome(redis.subscriber().subscribe(`${prefix}f`, { onMessage: () => undefined })),
      ({ code }) => code === 'ok',
    );
    expect(redis.subscriber().channels()).toBe(2);
  });
});
