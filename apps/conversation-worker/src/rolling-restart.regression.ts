import { newId } from '@signalbox/contracts/ids';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Conversation } from '../test/conversation.ts';

let conversation: Conversation;

beforeAll(async () => {
  conversation = await Conversation.start();
});
afterAll(() => conversation?.[Symbol.asyncDispose]());

test('workers that are restarted one after the other under load end every turn, and none begins as if another had begun it', async () => {
  // No lease has to run out here; a short one would on a machine that is slow.
  const group = { KAFKA_GROUP_ID: `rolling-${newId()}`, TURN_LEASE_MS: '10000' };
  const workers = [await conversation.worker(group), await conversation.worker(group)];
  const turns: string[] = [];
  let restarting = true;
  let ended = 0;
  // Each posts again when it is answered: the load is what the machine can take.
  const load = async () => {
    while (restarting) {
      const { turnId } = await conversation.post(`say ${turns.length}`);
      turns.push(turnId);
      await conversation.final(turnId, 30_000);
      ended += 1;
    }
  };
  const restart = async () => {
    for (const old of [...workers]) {
      workers.push(await conversation.worker(group));
      expect(await old.stop()).toMatchObject({ code: 0 });
    }
    restarting = false;
  };
  try {
    await Promise.all([...Array.from({ length: 16 }, load), restart()]);
    expect(ended).toBe(turns.length);
    const begun = turns.map((turnId) => conversation.eventsOf(turnId).map(({ type }) => type));
    expect(begun.filter((types) => types.includes('turn.resumed'))).toEqual([]);
  } finally {
    await Promise.all(workers.map((each) => each[Symbol.asyncDispose]()));
  }
}, 90_000);
