import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import { isFault } from '@signalbox/faults/fault';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { countingMetrics } from '../test/counting-metrics.ts';
import { type Process, Stack } from '../test/stack.ts';
import { type AnswererOptions, openAnswerer, type Reply } from './answerer.ts';
import { openAsker } from './asker.ts';

const requests = 'memory.recall.requests';
const results = 'memory.recall.results';
type Answers = AnswererOptions<typeof requests, typeof results>;
type RecallAnswer = Reply<typeof results>;

let stack: Stack;
beforeAll(async () => {
  stack = await Stack.create(requests, results, 'jobs.commands', 'jobs.results');
});
afterAll(() => stack?.drop());

const open = new Set<Process>();
afterEach(async () => {
  await Promise.all([...open].map((process) => process.close()));
  open.clear();
});

let services = 0;
const newService = (role: string) => {
  services += 1;
  return `${role}-${services}`;
};

function opened(service: string, options: Parameters<Stack['process']>[0] = {}): Process {
  const process = stack.process({ service, ...options });
  open.add(process);
  return process;
}

/** An instance of a service that asks. */
function asking(service: string, options: Parameters<Stack['process']>[0] = {}) {
  const process = opened(service, options);
  const { metrics, count } = countingMetrics();
  const { messaging, log } = process;
  const asker = openAsker({ messaging, service, requests, results, log, metrics, maxWaiting: 50 });
  const ask = (
    query: string,
    { deadlineMs = 10_000, ...more }: { deadlineMs?: number; signal?: AbortSignal } = {},
  ) =>
    asker.ask({
      ...{ tenant: 'acme', key: idKey('acme', newId()), eventType: 'memory.recall_requested', deadlineMs },
      ...{ schema: 'memory.recall.requests.v1', value: { query, limit: 5 }, ...more },
    });
  const ready = () => waitFor(asker.ready, (is) => is, { timeoutMs: 30_000, label: 'a partition' });
  return { process, asker, ask, ready, count };
}

/** An instance of a service that answers each text with itself, unless told otherwise. */
function answering(
  service: string,
  answer: (query: string, signal: AbortSignal) => Promise<RecallAnswer> = async (query) => echo(query),
  more: Partial<Answers> = {},
) {
  const process = opened(service);
  const { metrics, count } = countingMetrics();
  const { messaging, log } = process;
  const answerer = openAnswerer({
    ...{ messaging, service, requests, results, log, metrics },
    answers: { 'memory.recall_requested': (record, signal) => answer(record.value.query, signal) },
    refused: 'memory.refused',
    ...more,
  });
  return { process, answerer, count };
}

function echo(text: string): RecallAnswer {
  const occurred_at = new Date().toISOString();
  const memory = { memory_id: newId(), version: 1, namespace: 'default', role: 'note', occurred_at } as const;
  return {
    eventType: 'memory.recalled',
    value: { memories: [{ ...memory, text, score: 1 }], took_ms: 1 },
  };
}

function textIn(answer: RecallAnswer): string {
  return answer.eventType === 'memory.recalled' ? (answer.value.memories[0]?.text ?? '') : answer.eventType;
}

/** The code of what it rejects with. */
const codeOf = (asked: Promise<unknown>): Promise<string> =>
  asked.then(
    () => 'answered',
    (error: unknown) => (isFault(error) ? error.code : String(error)),
  );

describe('asking another service', () => {
  it('two instances of a service each get the answers to their own questions, the first without waiting for a partition', async () => {
    answering(newService('answering'));
    const service = newService('asking');
    const instances = [asking(service), asking(service)];
    const early = await Promise.all(
      instances.map(({ ask }, at) => ask(`early ${at}`, { deadlineMs: 30_000 })),
    );
    expect(early.map(textIn)).toEqual(['early 0', 'early 1']);
    for (const { ready } of instances) await ready();
    const asked = instances.flatMap(({ ask }, at) =>
      Array.from({ length: 20 }, async (_, n) => [`${at}/${n}`, textIn(await ask(`${at}/${n}`))]),
    );
    for (const [query, text] of await Promise.all(asked)) expect(text).toBe(query);
    for (const { count } of instances) expect(count('answers_dropped_total', results, 'tenant')).toBe(0);
  });

  it('a rebalance costs a question its deadline at most, and never gives it the answer to another', async () => {
    answering(newService('answering'));
    const service = newService('asking');
    const first = asking(service);
    await first.ready();
    const outcomes: string[] = [];
    let asked = 0;
    const stopAsking = new AbortController();
    const keepAsking = async () => {
      while (!stopAsking.signal.aborted) {
        asked += 1;
        const query = `question ${asked}`;
        const outcome = await first
          .ask(query, { deadlineMs: 1_000 })
          .then((answer) => (textIn(answer) === query ? 'own' : `foreign ${textIn(answer)}`))
          .catch((error: unknown) => (isFault(error) ? error.code : String(error)));
        outcomes.push(outcome);
      }
    };
    const loops = [keepAsking(), keepAsking()];
    const second = asking(service);
    await second.ready();
    const before = outcomes.length;
    await waitFor(
      () => outcomes.slice(before).filter((outcome) => outcome === 'own').length,
      (n) => n >= 50,
      { label: 'answers after the rebalance' },
    );
    stopAsking.abort();
    await Promise.all(loops);
    expect(
      outcomes.filter((outcome) => !['own', 'OWNER_TIMEOUT', 'KAFKA_UNAVAILABLE'].includes(outcome)),
    ).toEqual([]);
    expect(textIn(await second.ask('of the second'))).toBe('of the second');
  }, 60_000);

  it('an instance that reads no partition of the results says so at once', async () => {
    const service = newService('asking');
    const instances = Array.from({ length: 4 }, () => {
      const process = opened(service);
      const { messaging, log } = process;
      return openAsker({
        ...{ messaging, service, requests: 'jobs.commands', results: 'jobs.results', log },
        metrics: countingMetrics().metrics,
      });
    });
    await waitFor(
      () => instances.filter((asker) => asker.ready()).length,
      (ready) => ready === 3,
      { timeoutMs: 40_000, label: 'three with a partition each' },
    );
    const without = instances.find((asker) => !asker.ready());
    const startedAt = performance.now();
    const asked = waitFor(
      () =>
        codeOf(
          without?.ask({
            ...{ tenant: 'acme', key: idKey('acme', newId()), eventType: 'jobs.asked', deadlineMs: 20_000 },
            ...{ schema: 'jobs.commands.v1', value: { limit: 1 } },
          }) ?? Promise.resolve(),
        ),
      (code) => code === 'KAFKA_UNAVAILABLE',
    );
    await asked;
    expect(performance.now() - startedAt).toBeLessThan(5_000);
  }, 60_000);

  it('a question that nobody answers ends at its deadline, one that cannot be sent as well', async () => {
    const service = newService('asking');
    const { ask, ready, asker, process } = asking(service);
    await ready();
    expect(await codeOf(ask('nobody', { deadlineMs: 300 }))).toBe('OWNER_TIMEOUT');
    const away = asking(newService('asking'), { bootstrap: '127.0.0.1:1' });
    expect(await codeOf(away.ask('no broker', { deadlineMs: 300 }))).toBe('KAFKA_UNAVAILABLE');
    expect(await codeOf(ask('gone', { signal: AbortSignal.abort() }))).toBe('ABORTED');
    const caller = new AbortController();
    const aborted = codeOf(ask('goes', { signal: caller.signal }));
    caller.abort();
    expect(await aborted).toBe('ABORTED');
    // Bounded: the fifty-first is not even sent.
    const many = Array.from({ length: 50 }, () => codeOf(ask('many', { deadlineMs: 1_000 })));
    const startedAt = performance.now();
    expect(await codeOf(ask('one more'))).toBe('OWNER_TIMEOUT');
    expect(performance.now() - startedAt).toBeLessThan(500);
    expect(new Set(await Promise.all(many))).toEqual(new Set(['OWNER_TIMEOUT']));
    const atStop = codeOf(ask('at the stop'));
    await waitFor(asker.ready, (is) => is);
    open.delete(process);
    await process.close();
    expect(await atStop).toBe('ABORTED');
    expect(await codeOf(ask('after it'))).toBe('ABORTED');
  });

  it('drops an answer that comes too late, and one of another tenant', async () => {
    const slow = Promise.withResolvers<void>();
    answering(newService('answering'), async (query) => {
      if (query === 'slow') await slow.promise;
      return echo(query);
    });
    const { ask, ready, count, process } = asking(newService('asking'));
    await ready();
    expect(await codeOf(ask('slow', { deadlineMs: 500 }))).toBe('OWNER_TIMEOUT');
    slow.resolve(); // past its deadline the answerer does not send it
    expect(textIn(await ask('quick'))).toBe('quick');
    // What a foreign hand, or a slow one, writes into the partition of the asker.
    const asked = codeOf(ask('mine', { deadlineMs: 700 }));
    const question = await waitFor(
      async () => (await stack.read(requests)).find(({ value }) => value.includes('"mine"')),
      (found) => found !== undefined,
    );
    expect(await asked).not.toBe('ABORTED');
    const headers = question?.headers ?? {};
    const forged = async (tenant: string, correlationId: string) => {
      const key = idKey(tenant, newId());
      await process.messaging.producer.direct({
        ...{ topic: results, key, partition: Number(headers.reply_partition) },
        headers: {
          ...{ tenant_id: tenant, event_id: newId(), event_type: 'memory.recalled' },
          ...{ schema: 'memory.recall.results.v1', correlation_id: correlationId },
          reply_to: headers.reply_to ?? '',
        },
        value: echo('forged').value,
      });
    };
    const late = count('answers_dropped_total', results, 'late');
    await forged('acme', headers.correlation_id ?? '');
    await waitFor(
      () => count('answers_dropped_total', results, 'late'),
      (n) => n > late,
    );
  });
});
