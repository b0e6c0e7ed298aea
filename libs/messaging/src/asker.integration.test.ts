import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { countingMetrics } from '../test/counting-metrics.ts';
import { codeOf, echo, outcomeOf, Questions, requests, results } from '../test/questions.ts';
import { Stack } from '../test/stack.ts';
import { openAsker } from './asker.ts';
import { toRecord } from './outgoing.ts';

let stack: Stack;
let services: Questions;
beforeAll(async () => {
  stack = await Stack.create(requests, results, 'jobs.commands', 'jobs.results');
  services = new Questions(stack);
});
afterAll(() => stack?.drop());
afterEach(() => services.closeAll());

describe('asking another service', () => {
  it('two instances of a service each get the answers to their own questions, the first without waiting for a partition', async () => {
    services.answering();
    const service = services.newService('asking');
    const instances = [services.asking(service), services.asking(service)];
    const early = instances.map(({ ask }, at) => outcomeOf(ask(`early ${at}`, { deadlineMs: 30_000 })));
    expect(await Promise.all(early)).toEqual(['early 0', 'early 1']);
    for (const { ready } of instances) await ready();
    const asked = instances.flatMap(({ ask }, at) =>
      Array.from({ length: 20 }, async (_, n) => [`${at}/${n}`, await outcomeOf(ask(`${at}/${n}`))]),
    );
    for (const [query, text] of await Promise.all(asked)) expect(text).toBe(query);
  });

  it('a rebalance costs a question its deadline at most, and never gives it the answer to another', async () => {
    services.answering();
    const service = services.newService('asking');
    const first = services.asking(service);
    await first.ready();
    const outcomes: string[] = [];
    const stopAsking = new AbortController();
    let asked = 0;
    async function keepAsking(): Promise<void> {
      while (!stopAsking.signal.aborted) {
        asked += 1;
        const query = `question ${asked}`;
        const outcome = await outcomeOf(first.ask(query, { deadlineMs: 1_000 }));
        outcomes.push(outcome === query ? 'own' : outcome);
      }
    }
    const loops = [keepAsking(), keepAsking()];
    const second = services.asking(service);
    await second.ready();
    const before = outcomes.length;
    await waitFor(
      () => outcomes.slice(before).filter((outcome) => outcome === 'own').length,
      (n) => n >= 50,
      { label: 'answers after the rebalance' },
    );
    stopAsking.abort();
    await Promise.all(loops);
    const allowed = ['own', 'OWNER_TIMEOUT', 'KAFKA_UNAVAILABLE'];
    expect(outcomes.filter((outcome) => !allowed.includes(outcome))).toEqual([]);
    expect(await outcomeOf(second.ask('of the second'))).toBe('of the second');
  }, 60_000);

  it('an instance that reads no partition of the results says so at once', async () => {
    const service = services.newService('asking');
    const askers = Array.from({ length: 4 }, () => {
      const { messaging, log } = services.process(service);
      return openAsker({
        ...{ messaging, service, requests: 'jobs.commands', results: 'jobs.results', log },
        metrics: countingMetrics().metrics,
      });
    });
    const ask = (asker: (typeof askers)[number]) =>
      asker
        .ask({
          ...{ tenant: 'acme', key: idKey('acme', newId()), eventType: 'jobs.asked', deadlineMs: 20_000 },
          ...{ schema: 'jobs.commands.v1', value: { limit: 1 } },
        })
        .catch(codeOf);
    await waitFor(
      () => askers.filter((asker) => asker.ready()).length,
      (ready) => ready === 3,
      { timeoutMs: 40_000, label: 'three with a partition each' },
    );
    // Ready or not changes once more while the last one joins; the code comes in no time once it has.
    const code = await waitFor(
      async () => {
        const without = askers.filter((asker) => !asker.ready());
        const startedAt = performance.now();
        const codes = await Promise.all(without.map(ask));
        return { codes, ms: performance.now() - startedAt };
      },
      ({ codes, ms }) => codes.length === 1 && codes[0] === 'KAFKA_UNAVAILABLE' && ms < 500,
      { timeoutMs: 40_000, label: 'the refusal of the one without a partition' },
    );
    expect(code.codes).toEqual(['KAFKA_UNAVAILABLE']);
  }, 90_000);

  it('a service that asks for the first time does not read the answers of an hour before its own', async () => {
    const own = await Stack.create(requests, results);
    const others = new Questions(own);
    others.answering();
    const service = others.newService('asking');
    const old = own.kafka().producer();
    await old.connect();
    const { value, headers } = toRecord(
      {
        ...{ topic: results, key: idKey('acme', newId()), tenant: 'acme', eventType: 'memory.recalled' },
        ...{ schema: 'memory.recall.results.v1', eventId: newId(), correlationId: newId(), replyTo: service },
        value: echo('old').value,
      },
      undefined,
    );
    const timestamp = String(Date.now() - 600_000);
    await old.send({
      topic: own.topics.prefix + results,
      messages: Array.from({ length: 60 }, (_, n) => ({
        ...{ key: `acme:${n}`, value, headers, timestamp, partition: n % 6 },
      })),
    });
    await old.disconnect();
    const { ask, count } = others.asking(service);
    expect(await outcomeOf(ask('new', { deadlineMs: 30_000 }))).toBe('new');
    expect(count('answers_dropped_total', results, 'late')).toBe(0);
    await others.closeAll();
    await own.drop();
  }, 60_000);

  it('a question that nobody answers ends at its deadline, and one that cannot be sent too', async () => {
    const { ask, ready, count } = services.asking();
    await ready();
    expect(await outcomeOf(ask('nobody', { deadlineMs: 300 }))).toBe('OWNER_TIMEOUT');
    const away = services.asking(services.newService('asking'), { bootstrap: '127.0.0.1:1' });
    expect(await outcomeOf(away.ask('no broker', { deadlineMs: 300 }))).toBe('KAFKA_UNAVAILABLE');
    expect(count('ask_seconds', requests, 'owner_timeout')).toBe(1);
  });

  it('no more questions wait than the bound says: one more is not even sent', async () => {
    const { ask, ready } = services.asking();
    await ready();
    const many = Array.from({ length: 50 }, () => outcomeOf(ask('many', { deadlineMs: 1_000 })));
    const startedAt = performance.now();
    expect(await outcomeOf(ask('one more'))).toBe('OWNER_TIMEOUT');
    expect(performance.now() - startedAt).toBeLessThan(500);
    expect(new Set(await Promise.all(many))).toEqual(new Set(['OWNER_TIMEOUT']));
    expect((await stack.read(requests)).some(({ value }) => value.includes('one more'))).toBe(false);
  });

  it('a caller that goes away, and a process that stops, end the wait', async () => {
    const { ask, ready, process } = services.asking();
    await ready();
    expect(await outcomeOf(ask('gone before', { signal: AbortSignal.abort() }))).toBe('ABORTED');
    const caller = new AbortController();
    const asked = outcomeOf(ask('goes', { signal: caller.signal }));
    caller.abort();
    expect(await asked).toBe('ABORTED');
    const atStop = outcomeOf(ask('at the stop'));
    await services.close(process);
    expect(await atStop).toBe('ABORTED');
    expect(await outcomeOf(ask('after it'))).toBe('ABORTED');
  });

  it('an answer that comes too late is dropped, and one of another tenant counts for nothing', async () => {
    const { ask, ready, count, process } = services.asking();
    await ready();
    const asked = outcomeOf(ask('mine'));
    const question = await waitFor(
      async () => (await stack.read(requests)).find(({ value }) => value.includes('"mine"')),
      (found) => found !== undefined,
    );
    const { correlation_id = '', reply_to = '', reply_partition } = question?.headers ?? {};
    const answer = (tenant: string, text: string) =>
      process.messaging.producer.direct({
        ...{ topic: results, key: idKey(tenant, newId()), partition: Number(reply_partition) },
        headers: {
          ...{ tenant_id: tenant, event_id: newId(), event_type: 'memory.recalled' },
          ...{ schema: 'memory.recall.results.v1', correlation_id, reply_to },
        },
        value: echo(text).value,
      });
    await expect(
      process.messaging.producer.direct({
        ...{ topic: results, key: 'acme:x', partition: 6, headers: {}, value: {} },
      }),
    ).rejects.toMatchObject({ code: 'RECORD_REFUSED' }); // the topic has six
    await answer('globex', 'of another tenant');
    await answer('acme', 'right');
    expect(await asked).toBe('right');
    expect(count('answers_dropped_total', results, 'tenant')).toBe(1);
    expect(process.log.lines.some(({ event }) => event === 'ask.foreign_answer')).toBe(true);
    await answer('acme', 'again');
    await waitFor(
      () => count('answers_dropped_total', results, 'late'),
      (late) => late > 0,
    );
  });
});
