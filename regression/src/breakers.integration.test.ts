import { type ModelSimulator, startModelSimulator } from '@signalbox/dev/model-simulator';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { type Cluster, startCluster } from './cluster.ts';
import { createLedger, type Ledger } from './ledger.ts';
import { makeMessage } from './messages.ts';
import { send } from './request.ts';

/** `circuit_breaker_state`. */
const closed = 0;
const halfOpen = 1;
const open = 2;

let cluster: Cluster;
let backup: ModelSimulator;
let ledger: Ledger;

beforeAll(async () => {
  [cluster, backup] = await Promise.all([
    startCluster({ ...{ gateways: 1, workers: 1, executors: 1, relays: 1 }, proxies: false }),
    startModelSimulator(),
  ]);
  // The seeded profile `default` has the fallback `fallback`, which gets an endpoint of its own here.
  await cluster.database.query(
    `update conversation_worker.model_profiles set base_url = $1, model = 'backup' where name = 'fallback'`,
    [backup.url],
  );
});
afterAll(async () => {
  ledger?.close();
  await cluster?.close();
  await backup?.close();
});
beforeEach(() => {
  ledger?.close();
  ledger = createLedger(cluster);
});

const state = () => cluster.replica('worker-1').metric('circuit_breaker_state', { name: 'model:default' });

const until = (wanted: number) =>
  waitFor(state, (value) => value === wanted, { timeoutMs: 15_000, label: `breaker state ${wanted}` });

/** Posts so many plain messages at once, each in a session of its own; answers which model gave each answer. */
async function answersOf(count: number): Promise<{ models: string[]; tokens: string[] }> {
  const talks = Array.from({ length: count }, (_, index) => ledger.open(index % 2 === 0 ? 0 : 1));
  const messages = talks.map(() => makeMessage('plain', { toolLog: cluster.toolLog }));
  await Promise.all(
    talks.map((talk, index) => {
      const message = messages[index];
      return message === undefined ? undefined : talk.say(message);
    }),
  );
  await ledger.ended();
  const models = talks.map((talk) => {
    const final = talk.follower?.events.find(({ type }) => type === 'assistant.final');
    return String(final?.data.model);
  });
  return { models, tokens: messages.map(({ token }) => token) };
}

/** Requests that an endpoint was sent for these messages. */
async function askedOf({ url }: ModelSimulator, tokens: readonly string[]): Promise<number> {
  const answer = await send(new URL('/admin/requests', url).href);
  const seen: { conversation: { messages: { text: string }[] } }[] = JSON.parse(answer.body);
  return seen.filter(({ conversation }) => {
    const last = conversation.messages.at(-1)?.text ?? '';
    return tokens.some((token) => last.includes(token));
  }).length;
}

test('a request that the endpoint refuses opens nothing: the fault is in what was asked', async () => {
  cluster.model.setFaults([{ status: 400 }]);
  await answersOf(12);
  expect(await state()).toBe(closed);
}, 60_000);

test('an endpoint that fails is left alone, its fallback answers, and one single call tries it again', async () => {
  const [first, second] = ['test-model', 'backup'];
  cluster.model.setFaults([]);
  const well = await answersOf(2);
  expect(well.models).toEqual([first, first]);
  expect(await state()).toBe(closed);

  // It fails until the breaker opens; nobody who waits for an answer sees any of it.
  cluster.model.setFaults([{ status: 503 }]);
  const failing = await answersOf(8);
  expect(failing.models).toEqual(Array(8).fill(second));
  expect(await state()).toBe(open);
  await waitFor(
    async () => JSON.parse((await send(`${cluster.replica('worker-1').url}/health`)).body),
    ({ status, checks }) => status === 'degraded' && checks.breakers['model:default'] === 'open',
    { timeoutMs: 4_000, label: 'the open breaker in /health' },
  );

  // Open: nothing is sent to it.
  const refused = await answersOf(4);
  expect(refused.models).toEqual(Array(4).fill(second));
  expect(await askedOf(cluster.model, refused.tokens)).toBe(0);

  // Half-open and still ill: of many at once, one tries. It fails, and the breaker opens again.
  await until(halfOpen);
  cluster.model.setFaults([{ status: 503, latencyMs: 700 }]);
  const tried = await answersOf(8);
  expect(tried.models).toEqual(Array(8).fill(second));
  expect(await askedOf(cluster.model, tried.tokens)).toBe(1);
  expect(await state()).toBe(open);

  // Half-open and well again: one tries, the others do not wait for it; then all go to the first.
  cluster.model.setFaults([{ latencyMs: 2_500 }]);
  await until(halfOpen);
  const healed = await answersOf(8);
  expect(await askedOf(cluster.model, healed.tokens)).toBe(1);
  expect(healed.models.toSorted()).toEqual([...Array(7).fill(second), first]);
  expect(await state()).toBe(closed);
  const again = await answersOf(4);
  expect(again.models).toEqual(Array(4).fill(first));

  const transitions = (to: string) =>
    cluster.replica('worker-1').metric('circuit_breaker_transitions_total', { name: 'model:default', to });
  expect(await transitions('open')).toBe(2);
  expect(await transitions('half-open')).toBe(2);
  expect(await transitions('closed')).toBe(1);
  await ledger.check();
}, 90_000);
