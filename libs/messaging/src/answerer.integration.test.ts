import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import { fault } from '@signalbox/faults/fault';
import { testInfra } from '@signalbox/testkit/infra';
import { spawnService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { echo, outcomeOf, Questions, requests, results } from '../test/questions.ts';
import { Stack } from '../test/stack.ts';

let stack: Stack;
let services: Questions;
beforeAll(async () => {
  stack = await Stack.create(requests, results);
  services = new Questions(stack);
});
afterAll(() => stack?.drop());
afterEach(() => services.closeAll());

describe('answering another service', () => {
  it('what it cannot answer is refused with the code, a defect without its text', async () => {
    services.answering(async (query) => {
      if (query === 'defect') throw new Error('a secret');
      throw fault('NOT_FOUND', 'no such thing');
    });
    const { ask } = services.asking();
    expect(await ask('unknown', { deadlineMs: 30_000 })).toEqual({
      eventType: 'memory.refused',
      value: { error_code: 'NOT_FOUND', message: 'no such thing' },
    });
    const { value } = await ask('defect');
    expect(value).toMatchObject({ error_code: 'INTERNAL_ERROR' });
    expect(JSON.stringify(value)).not.toContain('secret');
  });

  it('an answer that is larger than a record may be is refused at once', async () => {
    services.answering(async () => echo('x'.repeat(1_000_000)));
    const { ask } = services.asking();
    expect(await outcomeOf(ask('large', { deadlineMs: 30_000 }))).toBe('RECORD_TOO_LARGE');
  });

  it('runs no more than its bound, refuses beyond the queue, and one tenant does not shut out another', async () => {
    const go = Promise.withResolvers<void>();
    let active = 0;
    let most = 0;
    const { answerer, ready, count } = services.answering(
      async (query) => {
        active += 1;
        most = Math.max(most, active);
        await go.promise;
        active -= 1;
        return echo(query);
      },
      { concurrency: 2, maxWaiting: 4 },
    );
    const { ask, ready: askerReady } = services.asking();
    await Promise.all([ready(), askerReady()]);
    const many = Array.from({ length: 10 }, (_, n) => outcomeOf(ask(`many ${n}`)));
    await waitFor(
      () => answerer.running + answerer.waiting,
      (n) => n === 6,
      { label: 'two running, four waiting' },
    );
    const other = outcomeOf(ask('of another', { tenant: 'globex' }));
    await waitFor(
      () => count('answer_seconds', requests, 'refused'),
      (n) => n === 5,
      { label: 'four that were too many, and one for the other tenant' },
    );
    go.resolve();
    expect(await other).toBe('of another');
    const outcomes = await Promise.all(many);
    expect(outcomes.filter((outcome) => outcome === 'TENANT_BUSY')).toHaveLength(5);
    expect(most).toBe(2);
  });

  it('a question past its deadline is not answered, and one that is being answered is told', async () => {
    const begun: string[] = [];
    const { ready, count } = services.answering(
      async (query, signal) => {
        begun.push(query);
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
        throw signal.reason;
      },
      { concurrency: 1 },
    );
    const { ask, ready: askerReady } = services.asking();
    await Promise.all([ready(), askerReady()]);
    const first = outcomeOf(ask('first', { deadlineMs: 1_000 }));
    await waitFor(
      () => begun,
      (list) => list.length === 1,
    );
    const second = outcomeOf(ask('second', { deadlineMs: 300 }));
    expect(await Promise.all([first, second])).toEqual(['OWNER_TIMEOUT', 'OWNER_TIMEOUT']);
    await waitFor(
      () => count('answer_seconds', requests, 'expired'),
      (n) => n === 2,
    );
    expect(begun).toEqual(['first']);
  });

  it('a stop lets what runs end, and refuses what waits', async () => {
    const go = Promise.withResolvers<void>();
    const { ready, process, answerer } = services.answering(
      async (query) => {
        await go.promise;
        return echo(query);
      },
      { concurrency: 1 },
    );
    const { ask, ready: askerReady } = services.asking();
    await Promise.all([ready(), askerReady()]);
    const running = outcomeOf(ask('running'));
    await waitFor(
      () => answerer.running,
      (n) => n === 1,
    );
    const waiting = outcomeOf(ask('waiting'));
    await waitFor(
      () => answerer.waiting,
      (n) => n === 1,
    );
    const closed = services.close(process);
    expect(await waiting).toBe('DRAINING');
    go.resolve();
    await closed;
    expect(await running).toBe('running');
  });

  it('a question without an address that an answer could reach is left out, and holds nothing up', async () => {
    const { ready, process } = services.answering();
    const { ask, service, process: asker, ready: askerReady } = services.asking();
    await Promise.all([ready(), askerReady()]);
    for (const reply_partition of ['6', '-1', '', 'x']) {
      await asker.messaging.producer.direct({
        ...{ topic: requests, key: idKey('acme', newId()) },
        headers: {
          ...{ tenant_id: 'acme', event_id: newId(), event_type: 'memory.recall_requested' },
          ...{
            schema: 'memory.recall.requests.v1',
            correlation_id: newId(),
            reply_to: service,
            reply_partition,
          },
        },
        value: { query: 'x', limit: 1, deadline_at: new Date(Date.now() + 5_000).toISOString() },
      });
    }
    await waitFor(
      () => process.log.lines.filter(({ event }) => event === 'answer.no_address').length,
      (n) => n === 4,
    );
    expect(await outcomeOf(ask('after them'))).toBe('after them');
  });

  it('a killed process costs its questions one deadline; those in the log are answered by the next', async () => {
    const { prefix } = stack.topics;
    const start = () =>
      spawnService(
        'sample',
        {
          DATABASE_URL: stack.database.url,
          KAFKA_BOOTSTRAP_SERVERS: testInfra().kafka,
          KAFKA_TOPIC_PREFIX: prefix,
          KAFKA_GROUP_ID: prefix.replace(/\.$/, ''),
        },
        { entry: new URL('../test/sample-service.ts', import.meta.url), args: ['killed', 'answers'] },
      );
    const { ask, ready } = services.asking();
    await using first = await start();
    await ready();
    expect(await outcomeOf(ask('before', { deadlineMs: 30_000 }))).toBe('before');
    const lost = outcomeOf(ask('hang', { deadlineMs: 3_000 }));
    await first.log('sample.asked', ({ query }) => query === 'hang');
    first.kill('SIGKILL');
    const inTheLog = outcomeOf(ask('in the log', { deadlineMs: 30_000 }));
    await using _next = await start();
    expect(await lost).toBe('OWNER_TIMEOUT');
    expect(await inTheLog).toBe('in the log');
  }, 60_000);
});
