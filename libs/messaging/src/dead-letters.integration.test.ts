import { newId } from '@signalbox/contracts/ids';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Process, Stack } from '../test/stack.ts';
import { type DeadLetter, fileDeadLetter } from './dead-letters.ts';

let stack: Stack;
let process: Process;
beforeAll(async () => {
  stack = await Stack.create('conversation.inbound');
  process = stack.process();
});
afterAll(() => stack?.drop());

let offsets = 0n;
function letter(more: Partial<DeadLetter>): DeadLetter {
  offsets += 1n;
  return {
    tenant: 'acme',
    topic: 'conversation.inbound',
    partition: 0,
    offset: offsets,
    timestampMs: Date.now(),
    consumer: 'a.group',
    reason: 'not_json',
    detail: 'why',
    attempts: 1,
    key: Buffer.from(`acme:${newId()}`),
    eventId: newId(),
    headers: { tenant_id: 'acme' },
    value: Buffer.from('x'),
    traceparent: undefined,
    ...more,
  };
}

/** Files it and puts its message, as the runners do. */
function file(given: DeadLetter) {
  return process.database.transaction(async (tx) => {
    const message = await fileDeadLetter(tx, given);
    if (message !== undefined) await process.messaging.outbox.put(tx, [message]);
    return message;
  });
}

const controls = (length: number) => '\u0001'.repeat(length);

describe('a record that is put aside', () => {
  const worst: Record<string, Partial<DeadLetter>> = {
    'with NUL and lone surrogates in its headers': {
      headers: { session_id: '\u0000x', 'na\u0000me': 'v', event_type: '\ud800', traceparent: '\u0000' },
      traceparent: '00-\u0000',
    },
    'with a session that is no id and longer than a header should be': {
      headers: { session_id: 's'.repeat(900_000) },
    },
    'with a megabyte of headers that take six times that as JSON': {
      headers: { junk: controls(1_000_000) },
    },
    'with a value of a megabyte': { value: Buffer.alloc(1_040_000, 0xff) },
    'with a key of a megabyte': { key: Buffer.alloc(1_040_000, 0xff) },
    'without key, value and headers': { key: null, value: null, headers: {}, eventId: undefined },
    'with a time before all times': { timestampMs: -1 },
    'with a time behind all times': { timestampMs: Number('9223372036854775807') },
    'with a time that is none': { timestampMs: Number.NaN },
    'with a reason that ends within a character': { detail: `${'d'.repeat(1_999)}\u{1f600}` },
  };
  it.each(Object.entries(worst))('%s can be stored, and so can its message', async (_, more) => {
    const given = letter(more);
    const message = await file(given);
    const [row] = await stack.database.query<{ value: Buffer | null }>(
      'select value from messaging.dead_letters where id = $1',
      [message?.eventId],
    );
    expect(row?.value).toEqual(given.value);
  });

  it('says in its message that only the row has the whole, where the message would be too large', async () => {
    const message = await file(letter({ headers: { junk: controls(1_000_000) } }));
    expect(message?.value).toMatchObject({ omitted: true, headers: {}, reason: 'not_json' });
    const small = await file(letter({}));
    expect(small?.value).toMatchObject({ value_base64: Buffer.from('x').toString('base64') });
  });

  it('is filed once: a redelivery makes neither a row nor a message', async () => {
    const given = letter({});
    expect(await file(given)).toBeDefined();
    expect(await file(given)).toBeUndefined();
  });
});
