import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { Conversation, type OutboundEvent, tenant } from '../test/conversation.ts';
import { readAsClient } from '../test/read-as-client.ts';

// With the services themselves around the worker, not what its other tests have for them: a turn that delegates to a turn,
// and remembers across sessions what came of it.

type Neighbour = 'conversation-worker' | 'delegation-worker' | 'memory-sync' | 'memory-replicator';

let conversation: Conversation;
const running = new Map<Neighbour, SpawnedService>();

async function start(name: Neighbour): Promise<void> {
  const service = await spawnService(name, {
    ...conversation.environment(),
    ...{ RECALL_DEADLINE_MS: '2000', DELEGATION_MAX_DEPTH: '1', DELEGATION_LEASE_MS: '2000' },
    ...{ WEBHOOK_SIGNING_SECRET: 'a secret of these tests', WEBHOOK_ALLOWED_HOSTS: '127.0.0.1' },
  });
  running.set(name, service);
  await service.ready(60_000);
}

beforeAll(async () => {
  conversation = await Conversation.start();
  for (const persona of ['boss', 'researcher']) await conversation.persona(persona);
  await conversation.database.query(
    `update conversation_worker.personas set delegates = $2,
       memory = case when persona_id = 'boss' then $3::jsonb else '{}' end where tenant = $1`,
    [
      ...[tenant, JSON.stringify([{ persona_id: 'researcher' }])],
      { recall: true, write: ['user', 'assistant'] },
    ],
  );
  await start('delegation-worker');
  await start('memory-sync');
  await start('memory-replicator');
  await start('conversation-worker');
}, 120_000);
afterEach(() => conversation.faults());
afterAll(async () => {
  for (const service of running.values()) await service[Symbol.asyncDispose]();
  await conversation?.[Symbol.asyncDispose]();
}, 60_000);

const boss = { personaId: 'boss' };
/** Each test has its own words: the turns that are waited for are found by them. */
const words = (letter: string) => Array.from({ length: 200 }, (_, at) => `${letter}${at}`).join(' ');
const toResearcher = (message: string): string =>
  `use delegate with ${JSON.stringify({ persona_id: 'researcher', message })}`;
const innerOf = (turnId: string, match: (event: OutboundEvent) => boolean) =>
  waitFor(
    () => conversation.outbound.filter((event) => event.value.turn_id !== turnId && match(event)),
    (events) => events.length > 0,
    { label: `the turn that ${turnId} waits for`, timeoutMs: 30_000 },
  );

test('what a task came to is the answer, and is remembered in another session', async () => {
  const { turnId } = await conversation.post(toResearcher('say blue whales sing'), boss);
  const final = await conversation.final(turnId, 30_000);
  expect(final.value.text).toBe('The delegate says blue whales sing.');
  const statuses = conversation.eventsOf(turnId).filter(({ type }) => type === 'delegation.updated');
  expect(statuses.at(-1)?.value.status).toBe('completed');
  // One trace, over four services and two sessions.
  const inner = await innerOf(turnId, ({ type }) => type === 'assistant.final');
  expect(inner.map(({ headers }) => headers.trace_id)).toEqual([final.headers.trace_id]);
  const remembers = async () => {
    const next = await conversation.post('what do you remember of blue whales', boss);
    return String((await conversation.final(next.turnId, 30_000)).value.text);
  };
  await waitFor(remembers, (text) => text.includes('"The delegate says blue whales sing."'), {
    timeoutMs: 30_000,
    label: 'a recalled memory',
  });
}, 90_000);

test('a cancel ends the turn that waits and the one that it waits for', async () => {
  await conversation.faults({ match: 'slowly', tokensPerSecond: 10 });
  const { turnId, sessionId } = await conversation.post(toResearcher(`say slowly ${words('c')}`), boss);
  await innerOf(
    turnId,
    ({ type, value }) => type === 'assistant.delta' && String(value.text).includes('c3 '),
  );
  await conversation.cancel(sessionId);
  await conversation.event(turnId, 'turn.cancelled');
  const [cancelled] = await innerOf(turnId, ({ type }) => type === 'turn.cancelled');
  expect(cancelled?.value).toMatchObject({ cause: 'requested', reason: 'its task was cancelled' });
}, 90_000);

test('tasks go as deep as they may, and no deeper', async () => {
  const { turnId } = await conversation.post(toResearcher(toResearcher(toResearcher('say never'))), boss);
  const final = await conversation.final(turnId, 30_000);
  // Of the second level: its own call was refused.
  expect(final.value.text).toContain('tasks are delegated no more than 1 deep');
}, 90_000);

test('both workers die with it: the task is carried out, each turn has one end', async () => {
  // The outer turn's request has the text too; the second try of the inner one is not slow.
  await conversation.faults({ match: 'a slowly told end', times: 2, tokensPerSecond: 10 });
  const { turnId } = await conversation.post(toResearcher(`say a slowly told end ${words('d')}`), boss);
  await innerOf(
    turnId,
    ({ type, value }) => type === 'assistant.delta' && String(value.text).includes('d3 '),
  );
  for (const name of ['conversation-worker', 'delegation-worker'] as const)
    running.get(name)?.kill('SIGKILL');
  await start('delegation-worker');
  await start('conversation-worker');
  const final = await conversation.final(turnId, 60_000);
  expect(final.value.text).toContain('d199');
  expect(readAsClient(conversation.eventsOf(turnId)).terminals).toHaveLength(1);
  const [inner] = await innerOf(
    turnId,
    ({ type, value }) => type === 'assistant.final' && String(value.text).includes('d199'),
  );
  const innerTurn = String(inner?.value.turn_id);
  const read = readAsClient(conversation.eventsOf(innerTurn));
  expect(read.terminals).toHaveLength(1);
  expect(read.text).toBe(inner?.value.text);
  expect(inner?.value.attempt).toBe(2);
}, 120_000);
