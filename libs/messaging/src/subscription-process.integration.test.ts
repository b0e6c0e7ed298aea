import { newId } from '@signalbox/contracts/ids';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { createEffects } from '../test/effects.ts';
import { inbound, type Process, Stack } from '../test/stack.ts';
import { partitionOf } from './murmur2.ts';

let stack: Stack;
let sender: Process;
beforeAll(async () => {
  stack = await Stack.create('conversation.inbound');
  await createEffects(stack.database);
  sender = stack.process();
});
afterAll(() => stack?.drop());

function start(
  run: string,
  args: readonly string[] = [],
  bootstrap = testInfra().kafka,
): Promise<SpawnedService> {
  const { prefix } = stack.topics;
  return spawnService(
    'sample',
    {
      DATABASE_URL: stack.database.url,
      KAFKA_BOOTSTRAP_SERVERS: bootstrap,
      KAFKA_TOPIC_PREFIX: prefix,
      KAFKA_GROUP_ID: prefix.replace(/\.$/, ''),
      KAFKA_REQUEST_TIMEOUT_MS: '1000',
    },
    { entry: new URL('../test/sample-service.ts', import.meta.url), args: [run, ...args], timeoutMs: 40_000 },
  );
}

const send = (session: string, ...texts: string[]) =>
  sender.database.transaction((tx) =>
    sender.messaging.outbox.put(
      tx,
      texts.map((text) => inbound(session, text)),
    ),
  );
const effects = async (run: string, session: string) =>
  (
    await stack.database.query<{ text: string }>(
      'select text from effects.effects where run = $1 and key = $2 order by n',
      [run, `acme:${session}`],
    )
  ).map(({ text }) => text);
const taken = (run: string, session: string, last: string, timeoutMs = 15_000) =>
  waitFor(
    () => effects(run, session),
    (texts) => texts.includes(last),
    { timeoutMs, label: `the effect of ${last}` },
  );
const isReady = async (service: SpawnedService) => (await fetch(`${service.url}/ready`)).status === 200;
const unready = (service: SpawnedService) =>
  waitFor(
    () => isReady(service),
    (ready) => !ready,
    { timeoutMs: 15_000, label: 'unready' },
  );
const counts = (partitions: unknown, count: number) =>
  Array.isArray(partitions) && partitions.length === count;
/** Waits until so many partitions are the service's, and says which they are. */
async function assigned(service: SpawnedService, count: number): Promise<readonly unknown[]> {
  const { partitions } = await waitFor(
    () => service.logs.findLast(({ event }) => event === 'consumer.assigned') ?? { partitions: [] },
    (last) => counts(last.partitions, count),
    { timeoutMs: 20_000, label: `${count} partitions` },
  );
  return Array.isArray(partitions) ? partitions : [];
}
function sessionIn(partitions: readonly unknown[]): string {
  for (;;) {
    const session = newId();
    if (partitions.includes(partitionOf(`acme:${session}`, 6))) return session;
  }
}
const restarts = (service: SpawnedService) =>
  service.metric('consumer_restarts_total', { consumer: 'conversation.inbound' });

describe.concurrent('a process whose consumer does not go on', { timeout: 90_000 }, () => {
  it('because a handler hangs: unready, out of the group so that another has its records, and at last exit 70', async ({
    expect,
  }) => {
    await using service = await start('hang', ['plain', '3000']);
    await using other = await start('hang', ['steady']);
    const own = await assigned(service, 3);
    await assigned(other, 3);
    const session = sessionIn(own);
    await send(session, 'before');
    await taken('hang', session, 'before');
    await send(session, 'hang hang', 'behind');
    await service.log('consumer.handler_hangs');
    await unready(service);
    await service.log('consumer.rebuilding', ({ why }) => why === 'handler hangs');
    expect(await restarts(service)).toBe(1);
    await taken('hang', session, 'behind');
    expect(await effects('hang', session)).toEqual(['before', 'hang hang', 'behind']);
    const end = await service.log('consumer.given_up');
    const took = other.logs.findLast(({ event }) => event === 'consumer.assigned');
    expect(took?.partitions).toHaveLength(6);
    expect(Date.parse(String(took?.timestamp))).toBeLessThan(Date.parse(String(end.timestamp)));
    expect((await service.exited).code).toBe(70);
    await other.ready();
  });

  it('because its members stay silent beside a good broker: rebuilt, counted, and at last exit 70', async ({
    expect,
  }) => {
    await using service = await start('silent', ['silent', '500']);
    await unready(service);
    await service.log('consumer.rebuilding', ({ rebuilds }) => rebuilds === 2, 15_000);
    expect(await restarts(service)).toBeGreaterThanOrEqual(2);
    await service.log('consumer.given_up', undefined, 20_000);
    expect((await service.exited).code).toBe(70);
  });

  it('because the broker is away: unready for as long as it takes, and no more than that', async ({
    expect,
  }) => {
    const [host = '', port = ''] = testInfra().kafka.split(':');
    await using proxy = await startFaultProxy({ host, port: Number(port), kafka: true });
    await using service = await start('away', ['plain', '1000'], proxy.address);
    await service.ready();
    const session = newId();
    for (const [n, fault] of [proxy.refuse, proxy.blackhole].entries()) {
      await fault();
      await send(session, `${n}`);
      await unready(service);
      // Many times what a silent member gets beside a broker that answers.
      await new Promise((resolve) => setTimeout(resolve, 4_000));
      await proxy.heal();
      await taken('away', session, `${n}`);
      await service.ready();
    }
    expect(service.logs.filter(({ event }) => event === 'consumer.given_up')).toEqual([]);
    expect(service.exit()).toBeUndefined();
    expect(await effects('away', session)).toEqual(['0', '1']);
  });
  it('because it was stopped for longer than its session: it comes back, and its repeats have no effect', async ({
    expect,
  }) => {
    await using a = await start('asleep');
    await a.ready();
    const sessions = Array.from({ length: 12 }, () => newId());
    const all = (text: string) => Promise.all(sessions.map((session) => send(session, text)));
    await all('1');
    await Promise.all(sessions.map((session) => taken('asleep', session, '1')));
    await using b = await start('asleep');
    await assigned(b, 3);
    a.kill('SIGSTOP');
    await all('2');
    await all('3');
    // The session of the one that sleeps times out, and the other has all partitions.
    await assigned(b, 6);
    await Promise.all(sessions.map((session) => taken('asleep', session, '3')));
    a.kill('SIGCONT');
    await waitFor(
      () => a.logs.filter(({ event }) => event === 'consumer.assigned').length,
      (joins) => joins >= 3,
      { timeoutMs: 20_000, label: 'it has joined again' },
    );
    await all('4');
    await Promise.all(sessions.map((session) => taken('asleep', session, '4')));
    for (const session of sessions) expect(await effects('asleep', session)).toEqual(['1', '2', '3', '4']);
    await Promise.all([a.ready(), b.ready()]);
  });
});
