import { newId } from '@signalbox/contracts/ids';
import { startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { sleep, waitFor } from '@signalbox/testkit/wait';
import { describe, it } from 'vitest';
import { commits, message, type OutboxFixture, outboxFixture } from './outbox-fixture.ts';

/** Each key's first copies in the order of its rows, and all of them (delivery rules 5, 6). */
async function allPublished(outbox: OutboxFixture): Promise<{ repeats: number }> {
  await outbox.emptied(20_000);
  const { wrong, repeats } = await outbox.published();
  if (wrong.length > 0) throw new Error(wrong.join('\n'));
  return { repeats };
}

const someSessions = (count: number) => Array.from({ length: count }, () => newId());

describe('first copies are in the order of their rows', { timeout: 60_000 }, () => {
  it('of three processes that write to the same keys at once beside a relay', async () => {
    await using outbox = await outboxFixture();
    await outbox.relay();
    const sessions = someSessions(4);
    const writers = [outbox.writer(sessions), outbox.writer(sessions), outbox.writer(sessions)];
    await Promise.all(writers.map((writer) => commits(writer, 200)));
    await waitFor(outbox.rowsPut, (rows) => rows >= 1_000, { timeoutMs: 20_000, label: '1 000 rows' });
    for (const writer of writers) writer.kill('SIGKILL');
    await Promise.all(writers.map((writer) => writer.exited));
    await allPublished(outbox);
  });

  it('of a writer that stands still for longer than its rows are its own, and of the one that writes on meanwhile', async ({
    expect,
  }) => {
    await using outbox = await outboxFixture();
    await using proxy = await kafkaProxy();
    await outbox.relay({ OUTBOX_STALE_MS: '1000' });
    const sessions = someSessions(4);
    const sleeper = outbox.writer(sessions, { KAFKA_BOOTSTRAP_SERVERS: proxy.address });
    await commits(sleeper, 50);
    proxy.slow(300); // so that rows are on their way when it stops
    await sleep(150);
    sleeper.kill('SIGSTOP');
    expect(await outbox.rowsLeft()).toBeGreaterThan(0);
    const other = outbox.writer(sessions);
    await commits(other, 100);
    await sleep(1_500); // past the age at which the relay takes rows over
    await waitFor(outbox.rowsLeft, (left) => left < 100, { label: 'the rows of the one that stands still' });
    await proxy.heal();
    sleeper.kill('SIGCONT');
    const before = sleeper.logs.length;
    await waitFor(
      () => sleeper.logs.length,
      (lines) => lines > before + 50,
      { timeoutMs: 20_000, label: 'it writes on' },
    );
    for (const writer of [sleeper, other]) {
      writer.kill('SIGKILL');
      await writer.exited;
    }
    await allPublished(outbox);
  });

  it.for(['outbox.committed', 'outbox.published'])(
    'of a writer that is killed at %s',
    async (point, { expect }) => {
      await using outbox = await outboxFixture();
      const sessions = someSessions(3);
      const writer = outbox.writer(sessions, { FAIL_POINT: `${point}:60` });
      expect((await writer.exited).signal).toBe('SIGKILL');
      expect(writer.logs.at(-1)).toMatchObject({ event: 'fail_point.reached', fail_point: point });
      expect(await outbox.rowsLeft()).toBeGreaterThan(0);
      const heir = outbox.writer(sessions);
      await outbox.relay();
      await commits(heir, 60);
      heir.kill('SIGKILL');
      await heir.exited;
      await allPublished(outbox);
    },
  );
});

describe.concurrent('first copies are in the order of their rows', { timeout: 60_000 }, () => {
  it.for(['SIGKILL', 'SIGSTOP'] as const)(
    'of a relay that gets a %s between the answer and the deletion, when another has its slots',
    async (signal, { expect }) => {
      await using outbox = await outboxFixture();
      const broken = await outbox.relay({ FAIL_POINT: `relay.sent:4:${signal}` });
      await broken.ready();
      const sessions = someSessions(20);
      const put = () =>
        outbox.put(
          null,
          sessions.map((session) => message(session)),
        );
      await waitFor(
        async () => {
          await put();
          return broken.logs;
        },
        (logs) => logs.some(({ event }) => event === 'fail_point.reached'),
        { label: 'its fourth answer' },
      );
      await outbox.relay();
      for (let n = 0; n < 5; n += 1) await put();
      await outbox.emptied();
      if (signal === 'SIGSTOP') {
        broken.kill('SIGCONT');
        await put();
        await outbox.emptied();
        await broken.ready();
      }
      const { repeats } = await allPublished(outbox);
      expect(repeats).toBeGreaterThan(0);
    },
  );

  it('of a relay whose answers are lost', async ({ expect }) => {
    await using outbox = await outboxFixture();
    await using proxy = await kafkaProxy();
    const relay = await outbox.relay({ KAFKA_BOOTSTRAP_SERVERS: proxy.address });
    await relay.ready();
    const sessions = someSessions(20);
    const put = () =>
      outbox.put(
        null,
        sessions.map((session) => message(session)),
      );
    await put();
    await outbox.emptied();
    proxy.blackhole('to-client');
    for (let n = 0; n < 5; n += 1) await put();
    await relay.log('producer.retrying');
    await proxy.heal();
    for (let n = 0; n < 5; n += 1) await put();
    const { repeats } = await allPublished(outbox);
    expect(repeats).toBeGreaterThan(0);
  });
});

function kafkaProxy() {
  const [host = '', port = ''] = testInfra().kafka.split(':');
  return startFaultProxy({ host, port: Number(port), kafka: true });
}
