import { newId } from '@signalbox/contracts/ids';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { waitFor } from '@signalbox/testkit/wait';
import { describe, it } from 'vitest';
import { message, outboxFixture } from './outbox-fixture.ts';

describe.concurrent('outbox-sync', { timeout: 60_000 }, () => {
  it('publishes rows that were given up and rows whose process died after its commit', async ({ expect }) => {
    await using outbox = await outboxFixture();
    const relay = await outbox.relay();
    await relay.ready();
    await outbox.put(null, [message(newId()), message(newId())]);
    await outbox.put(newId(), [message(newId())]); // its writer is a process that is no more
    await outbox.emptied();
    expect(await relay.metric('durable_publish_total', { path: 'relay', result: 'ok' })).toBe(3);
    const { code } = await relay.stop();
    expect(code).toBe(0);
  });

  it('shares the slots between replicas, and one that is killed loses nothing', async ({ expect }) => {
    await using outbox = await outboxFixture();
    const [first, second] = await Promise.all([outbox.relay(), outbox.relay()]);
    await second.log('relay.slots', ({ slots }) => slots === 32);
    await first.log('relay.slots', ({ slots }) => slots === 32);
    first.kill('SIGKILL');
    await outbox.put(
      null,
      Array.from({ length: 200 }, () => message(newId())),
    );
    await second.log('relay.slots', ({ slots }) => slots === 64);
    await outbox.emptied();
    expect((await outbox.published()).wrong).toEqual([]);
  });

  it('goes on with other topics while one is missing', async () => {
    await using outbox = await outboxFixture();
    const relay = await outbox.relay();
    await relay.ready();
    await outbox.put(null, [message(newId(), 'tool.requests')]); // this test has not made that topic
    await relay.log('relay.topics_missing');
    await outbox.put(null, [message(newId())]);
    await waitFor(outbox.rowsLeft, (left) => left === 1, { label: 'only the row of the missing topic' });
  });

  it('stays up while the broker is away, is unready, tells what waits, and has published it soon after', async ({
    expect,
  }) => {
    await using outbox = await outboxFixture();
    const [host = '', port = ''] = testInfra().kafka.split(':');
    await using proxy = await startFaultProxy({ host, port: Number(port), kafka: true });
    const relay = await outbox.relay({ KAFKA_BOOTSTRAP_SERVERS: proxy.address });
    await relay.ready();
    const waiting = async () => ({
      pending: await relay.metric('outbox_pending'),
      oldest: await relay.metric('outbox_oldest_seconds'),
    });
    const settled = (
      what: Parameters<typeof waitFor<Awaited<ReturnType<typeof waiting>>>>[1],
      label: string,
    ) => waitFor(waiting, what, { label });
    await settled(({ pending, oldest }) => pending === 0 && oldest === 0, 'nothing waits');
    await proxy.refuse();
    const sessions = Array.from({ length: 200 }, () => newId());
    const began = performance.now();
    for (let n = 0; n < 10; n += 1)
      await outbox.put(
        null,
        sessions.map((session) => message(session)),
      );
    await waitFor(
      async () => (await (await fetch(`${relay.url}/ready`)).json()) as { reason?: string },
      ({ reason }) => reason === 'kafka',
      { label: 'unready for want of a broker' },
    );
    const { oldest = 0 } = await settled(
      ({ pending, oldest }) => pending === 2_000 && (oldest ?? 0) >= 2,
      'all that waits',
    );
    expect(oldest).toBeLessThanOrEqual((performance.now() - began) / 1_000 + 0.1);
    await proxy.heal();
    const back = performance.now();
    await outbox.emptied();
    expect(performance.now() - back).toBeLessThan(8_000);
    await settled(({ pending, oldest }) => pending === 0 && oldest === 0, 'nothing waits any more');
    await relay.ready();
    expect((await outbox.published()).wrong).toEqual([]);
  });

  it('finds what was given up by a notification, long before its poll', async () => {
    await using outbox = await outboxFixture();
    const relay = await outbox.relay({ OUTBOX_POLL_MS: '60000' });
    await relay.ready();
    await relay.log('relay.slots', ({ slots }) => slots === 64);
    await outbox.put(null, [message(newId())]);
    await outbox.testDatabase.query('notify signalbox_outbox');
    await outbox.emptied(20_000);
  });

  it('finds it by its poll where no notification comes', async () => {
    await using outbox = await outboxFixture();
    const relay = await outbox.relay({ OUTBOX_POLL_MS: '300' });
    await relay.ready();
    await relay.log('relay.slots', ({ slots }) => slots === 64);
    // The connection that listens is a hint's, and no more.
    await outbox.testDatabase.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query ilike 'listen%'`,
    );
    await outbox.put(null, [message(newId())]);
    await outbox.emptied(20_000);
  });
});
