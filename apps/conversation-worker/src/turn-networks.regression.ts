import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { spawnService } from '@signalbox/testkit/service';
import { sleep } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Conversation } from '../test/conversation.ts';
import { readAsClient } from '../test/read-as-client.ts';

// A holder that is cut off from one of its stores and alive. Of what it does then, its lease in Postgres decides.

let conversation: Conversation;
let kafka: FaultProxy;
let postgres: FaultProxy;

beforeAll(async () => {
  conversation = await Conversation.start();
  const [broker = ''] = testInfra().kafka.split(',');
  const [host = '', port] = broker.split(':');
  kafka = await startFaultProxy({ host, port: Number(port), kafka: true });
  postgres = await startFaultProxy({ url: conversation.database.url });
});
afterEach(async () => {
  await conversation.faults();
  await Promise.all([kafka.heal(), postgres.heal()]);
});
afterAll(async () => {
  await kafka?.close();
  await postgres?.close();
  await conversation?.[Symbol.asyncDispose]();
});

const leaseMs = 2_000;
const words = Array.from({ length: 300 }, (_, at) => `w${at}`).join(' ');
const slow = { match: 'slowly', times: 1, tokensPerSecond: 25 };
// What it cannot end by itself it gives up at once when the test is over.
const cutOff = { TURN_STOP_MS: '0', SHUTDOWN_TIMEOUT_MS: '3000' };
const behindKafka = () => ({ ...cutOff, KAFKA_BOOTSTRAP_SERVERS: kafka.address });

/** A turn that this worker runs, for it is alone. */
async function runningTurn(): Promise<{ turnId: string; sessionId: string }> {
  await conversation.faults(slow);
  const turn = await conversation.post(`say slowly ${words}`);
  await conversation.event(turn.turnId, 'assistant.delta', 20_000, 2);
  return turn;
}

describe('a holder that is cut off from Kafka alone', { timeout: 90_000 }, () => {
  test('keeps its turn past its lease time, and ends it as the same attempt when Kafka is back', async () => {
    await using holder = await conversation.worker(behindKafka());
    const { turnId } = await runningTurn();
    await using other = await conversation.spawn();
    kafka.blackhole();
    await sleep(1.5 * leaseMs); // longer than a lease: what is shown is that nobody takes the turn
    await kafka.heal();
    const final = await conversation.final(turnId, 40_000);
    const read = readAsClient(conversation.eventsOf(turnId));
    expect(final.value).toMatchObject({ text: read.text, attempt: 1 });
    expect(read.text).toContain('w299');
    expect(read.terminals).toHaveLength(1);
    expect([...holder.logs, ...other.logs].some(({ event }) => event === 'work.lease_lost')).toBe(false);
    await holder.ready(40_000);
  });

  test('and told to cancel: nobody knows what the log has of it, so the end is a new attempt’s', async () => {
    await using holder = await conversation.worker(behindKafka());
    const { turnId, sessionId } = await runningTurn();
    await using _other = await conversation.worker();
    // Whoever of the two holds it then may be cut off: its rows are the relay's.
    await using _relay = await spawnService('outbox-sync', conversation.environment());
    kafka.blackhole();
    const by = await conversation.cancel(sessionId);
    const told = await conversation.event(turnId, 'turn.cancelled', 30_000);
    expect(told.value).toMatchObject({ cause: 'requested', by, attempt: 2, text: '', length: 0 });
    // Because of the cancel, or because its deltas had waited for too long by then.
    expect(
      holder.logs.some(({ event }) => ['turn.cancel_handed_over', 'work.handed_over'].includes(event)),
    ).toBe(true);
    await kafka.heal();
    await holder.ready(40_000);
    // What was on its way comes late, of an attempt that is over.
    const next = await conversation.post('say next', { sessionId });
    await conversation.final(next.turnId, 20_000);
    const read = readAsClient(conversation.eventsOf(turnId));
    expect(read).toMatchObject({ text: '' });
    expect(read.terminals).toHaveLength(1);
  });
});

describe('a holder that is cut off from Postgres alone', { timeout: 90_000 }, () => {
  test('is silent when its own clock says so, before another goes on with the turn', async () => {
    await using holder = await conversation.worker({ ...cutOff, DATABASE_URL: postgres.url });
    const { turnId, sessionId } = await runningTurn();
    await using _other = await conversation.spawn();
    const cutAtMs = Date.now();
    postgres.blackhole();
    await holder.log('work.lease_lost', undefined, 20_000);
    const resumed = await conversation.event(turnId, 'turn.resumed', 30_000);
    expect(resumed.value).toMatchObject({ attempt: 2 });
    const final = await conversation.final(turnId, 20_000);
    await postgres.heal();
    await holder.ready(40_000);
    const events = conversation.eventsOf(turnId);
    const [old, since] = [
      events.filter(({ value }) => value.attempt === 1),
      events.filter(({ value }) => value.attempt === 2),
    ];
    // It went on for as long as its lease held, and not a record longer.
    expect(Math.max(...old.map(({ sentAtMs }) => sentAtMs))).toBeGreaterThan(cutAtMs);
    expect(Math.max(...old.map(({ sentAtMs }) => sentAtMs))).toBeLessThan(cutAtMs + leaseMs);
    expect(events.indexOf(since[0] ?? final)).toBe(old.length);
    const read = readAsClient(events);
    expect(final.value).toMatchObject({ text: read.text, attempt: 2 });
    expect(read.terminals).toHaveLength(1);
    const next = await conversation.post('say next', { sessionId });
    await conversation.final(next.turnId, 20_000);
  });
});
