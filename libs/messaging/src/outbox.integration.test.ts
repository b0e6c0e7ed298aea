import { newId } from '@signalbox/contracts/ids';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { firstCopies, inbound, Stack } from '../test/stack.ts';

let stack: Stack;
beforeAll(async () => {
  stack = await Stack.create('conversation.inbound');
});
afterAll(() => stack?.drop());

const rowsLeft = async () =>
  Number((await stack.database.query<{ n: string }>('select count(*) as n from messaging.outbox'))[0]?.n);

describe('the outbox', () => {
  it('publishes what a transaction put, in order, and deletes the rows', async () => {
    const process = stack.process();
    const session = newId();
    await process.database.transaction((tx) =>
      process.messaging.outbox.put(tx, [inbound(session, 'one'), inbound(session, 'two')]),
    );
    await process.database.transaction((tx) => process.messaging.outbox.put(tx, [inbound(session, 'three')]));
    await waitFor(rowsLeft, (left) => left === 0, { label: 'an empty outbox' });
    const records = await stack.read('conversation.inbound');
    expect(firstCopies(records, `acme:${session}`)).toEqual(['one', 'two', 'three']);
    await process.close();
  });
});
