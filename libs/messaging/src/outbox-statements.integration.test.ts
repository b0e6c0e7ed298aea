import { newId } from '@signalbox/contracts/ids';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { slots } from '../test/outbox-stack.ts';
import { inbound, type Process, Stack } from '../test/stack.ts';
import { deleteRows, foreignRows, giveUpRows, putRows, type StoredRow, staleRows } from './outbox-sql.ts';
import { toRecord } from './outgoing.ts';

const topic = 'conversation.inbound';
const budget = 16 * 1024 * 1024;
let stack: Stack;
let process: Process;
beforeAll(async () => {
  stack = await Stack.create();
  process = stack.process();
});
afterAll(() => stack?.drop());

/** Rows of these sessions by a writer that is not this process, in this order. */
async function put(texts: readonly (readonly [session: string, text: string])[], writer: string | null) {
  const records = texts.map(([session, text]) => {
    const message = inbound(session, text);
    return { ...toRecord(message, undefined), tenant: 'acme', eventId: message.eventId };
  });
  const rows = await process.database.transaction((tx) => putRows(tx, writer, records));
  return rows.map(({ id }) => ({ tenant: 'acme', id }));
}
const bytes = (rows: readonly StoredRow[]) => rows.reduce((sum, { value }) => sum + (value?.length ?? 0), 0);
const large = 'x'.repeat(800_000);

it('reads at most 16 MB at a time for the relay, each key from its lowest row on, until all are read', async () => {
  const sessions = Array.from({ length: 6 }, () => newId());
  for (let n = 0; n < 8; n += 1)
    await put(
      sessions.map((session) => [session, `${n} ${large}`]),
      null,
    );
  const small = newId();
  await put([[small, 'small']], null);
  const reads: StoredRow[][] = [];
  for (;;) {
    const rows = await staleRows(process.database, slots, 60_000, 2_048, []);
    if (rows.length === 0) break;
    reads.push(rows);
    await deleteRows(process.database, rows);
  }
  for (const rows of reads) expect(bytes(rows)).toBeLessThan(budget + 900_000);
  expect(reads.length).toBe(3);
  for (const session of sessions) {
    const ids = reads.flat().filter(({ key }) => key === `acme:${session}`);
    expect(ids.map(({ id }) => id)).toEqual(ids.map(({ id }) => id).toSorted((a, b) => Number(a - b)));
    expect(ids).toHaveLength(8);
  }
  expect(reads.flat().filter(({ key }) => key === `acme:${small}`)).toHaveLength(1);
});

it('reads at most 16 MB of a key that is adopted, lowest first', async () => {
  const session = newId();
  for (let n = 0; n < 25; n += 1) await put([[session, `${n} ${large}`]], null);
  const read = () => foreignRows(process.database, process.instanceId, topic, `acme:${session}`, 256);
  const first = await read();
  expect(bytes(first)).toBeLessThan(budget + 900_000);
  await deleteRows(process.database, first);
  const second = await read();
  expect(first.length + second.length).toBe(25);
  expect([...first, ...second].map(({ id }) => id)).toEqual(
    [...first, ...second].map(({ id }) => id).toSorted((a, b) => Number(a - b)),
  );
  await deleteRows(process.database, second);
});

it('deletes and gives up the same rows from two sides in whatever order, and nobody waits in a circle', async () => {
  const writer = newId();
  for (let round = 0; round < 15; round += 1) {
    const sessions = Array.from({ length: 200 }, () => newId());
    const rows = await put(
      sessions.flatMap((session) => [
        [session, 'one'],
        [session, 'two'],
      ]),
      writer,
    );
    const keys = sessions.map((session) => ({ topic, key: `acme:${session}`, fromId: 0n }) as const);
    await Promise.all([
      giveUpRows(process.database, writer, keys),
      deleteRows(process.database, rows),
      deleteRows(process.database, rows.toReversed()),
      deleteRows(
        process.database,
        rows.toSorted(() => Math.random() - 0.5),
      ),
    ]);
  }
  expect(await stack.database.query('select 1 from messaging.outbox')).toEqual([]);
});
