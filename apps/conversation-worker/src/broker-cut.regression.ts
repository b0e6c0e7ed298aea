import { newId } from '@signalbox/contracts/ids';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { spawnService } from '@signalbox/testkit/service';
import { sleep, waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { Conversation } from '../test/conversation.ts';
import { readAsClient } from '../test/read-as-client.ts';

let conversation: Conversation;
let kafka: FaultProxy;

beforeAll(async () => {
  conversation = await Conversation.start();
  const [broker = ''] = testInfra().kafka.split(',');
  const [host = '', port] = broker.split(':');
  kafka = await startFaultProxy({ host, port: Number(port), kafka: true });
});
afterEach(async () => {
  await conversation.faults();
  await kafka.heal();
});
afterAll(async () => {
  await kafka?.close();
  await conversation?.[Symbol.asyncDispose]();
});

const count = 6;
const words = Array.from({ length: 250 }, (_, at) => `w${at}`).join(' ');
const behindProxy = () => ({
  KAFKA_BOOTSTRAP_SERVERS: kafka.address,
  KAFKA_GROUP_ID: `cut-${newId()}`,
  SHUTDOWN_TIMEOUT_MS: '3000',
  TURN_STOP_MS: '0',
});

/** Turns whose first try takes 25 s, under way. */
async function slowTurns(): Promise<string[]> {
  await conversation.faults({ match: 'slowly', times: count, tokensPerSecond: 10 });
  const posts = await Promise.all(
    Array.from({ length: count }, (_, n) => conversation.post(`say slowly ${n} ${words}`)),
  );
  for (const { turnId } of posts) await conversation.event(turnId, 'assistant.delta', 15_000, 1);
  return posts.map(({ turnId }) => turnId);
}

const ended = (turns: readonly string[]) =>
  turns.filter((turnId) =>
    conversation
      .eventsOf(turnId)
      .some(({ type }) => type === 'assistant.final' || type === 'assistant.error'),
  );

async function expectFinals(turns: readonly string[]): Promise<void> {
  for (const turnId of turns) {
    const final = await conversation.final(turnId, 1);
    const read = readAsClient(conversation.eventsOf(turnId));
    expect(read.types).not.toContain('assistant.error');
    expect(read.text).toBe(final.value.text);
    expect(read.text).toContain('w249');
  }
  const rows = await conversation.database.query<{ state: string; retries: number; lost: number }>(
    'select distinct state, retries, lost from conversation_worker.turns where id = any($1)',
    [turns],
  );
  expect(rows).toEqual([{ state: 'done', retries: 0, lost: 0 }]);
}

test.each(['refused', 'black hole'])(
  'a worker cut off from Kafka alone, %s, and never healed: the other ends its turns within 15 s',
  async (how) => {
    await using _relay = await spawnService('outbox-sync', conversation.environment());
    await using cutOff = await conversation.worker(behindProxy());
    const turns = await slowTurns();
    await using other = await conversation.worker();
    if (how === 'refused') await kafka.refuse();
    else kafka.blackhole();
    const cutAt = performance.now();
    // 5 s until it hands them over, a look and a poll, and the turns themselves, which take 1 s each now.
    await waitFor(
      () => ended(turns).length,
      (n) => n === count,
      { timeoutMs: 40_000, label: 'turns ended' },
    );
    const ms = Math.round(performance.now() - cutAt);
    expect(ms).toBeLessThan(15_000);
    await expectFinals(turns);
    expect(cutOff.logs.filter(({ event }) => event === 'work.handed_over')).toHaveLength(count);
    expect(other.logs.filter(({ event }) => event === 'turn.finished').length).toBeGreaterThanOrEqual(count);
    // And it takes none of what comes then.
    const later = await Promise.all(Array.from({ length: 4 }, (_, n) => conversation.post(`say later ${n}`)));
    for (const { turnId } of later) expect((await conversation.final(turnId)).value.attempt).toBe(1);
  },
);

test('Kafka is away for every worker for 30 s: turns wait, and go on without having spent a try', async () => {
  const env = behindProxy();
  await using _relay = await spawnService(
    'outbox-sync',
    conversation.environment({ KAFKA_BOOTSTRAP_SERVERS: kafka.address }),
  );
  await using first = await conversation.worker(env);
  await using second = await conversation.worker(env);
  const turns = await slowTurns();
  await kafka.refuse();
  await sleep(30_000);
  expect(ended(turns)).toEqual([]);
  await kafka.heal();
  await waitFor(
    () => ended(turns).length,
    (n) => n === count,
    { timeoutMs: 60_000, label: 'turns ended' },
  );
  await expectFinals(turns);
  const logs = [...first.logs, ...second.logs];
  expect(logs.filter(({ event }) => event === 'work.retried')).toEqual([]);
  // Nobody asked a model for an answer that could not be told.
  expect(logs.filter(({ event }) => event === 'work.handed_over')).toHaveLength(count);
});
