import { gzipSync } from 'node:zlib';
import { newId } from '@signalbox/contracts/ids';
import type { DeadLetterReason } from '../../src/dead-letters.ts';
import { partitionOf } from '../../src/murmur2.ts';
import type { WireRecord } from '../wire.ts';

/**
 * What must become of a record:
 * - `taken`: its handler gets it, with the bytes, key and headers that it had, and its effect is there once.
 * - `dead`: a dead letter with the reason and the record's bytes. No handler sees it.
 * - `known`: its event id was there before, so it has no effect of its own.
 */
export type Fate =
  | { readonly kind: 'taken' }
  | { readonly kind: 'dead'; readonly reason: DeadLetterReason; readonly tenant: string }
  | { readonly kind: 'known' };

export interface CorpusRecord {
  readonly name: string;
  readonly fate: Fate;
  readonly wire: WireRecord;
}

const partitions = 6;
/** What nobody may find on an object of ours afterwards. */
export const pollution = 'polluted';
const taken: Fate = { kind: 'taken' };
const dead = (reason: DeadLetterReason, tenant = 'acme'): Fate => ({ kind: 'dead', reason, tenant });

type Headers = readonly (readonly [string, Buffer | string])[];

/** A posted message of the session as text, with fields changed or added; undefined leaves one out. */
function posted(session: string, text: string, more: Record<string, unknown> = {}): string {
  return JSON.stringify({
    session_id: session,
    turn_id: newId(),
    event_id: newId(),
    persona_id: 'assistant',
    message: text,
    accepted_at: '2026-01-02T03:04:05.678Z',
    ...more,
  });
}

/** The headers of a posted message, with some of them in another way or (undefined) left out. */
function headersOf(
  session: string,
  more: Readonly<Record<string, Buffer | string | undefined>> = {},
): Headers {
  const all: Record<string, Buffer | string | undefined> = {
    event_id: newId(),
    event_type: 'message.posted',
    schema: 'conversation.inbound.v1',
    tenant_id: 'acme',
    session_id: session,
    ...more,
  };
  return Object.entries(all).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, value] as const],
  );
}

/** A record of the session that is as good as any. */
export function neighbour(session: string, text: string): WireRecord {
  const key = `acme:${session}`;
  return {
    partition: partitionOf(key, partitions),
    key,
    value: posted(session, text),
    headers: headersOf(session),
  };
}

/** A value at `depth` levels of arrays, the value's own object among them. */
const nested = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`;

/**
 * Records that a topic may hold and no release of ours has written, beside records that look alike and must pass. All
 * lie in the partition of the session, whatever their keys say, so that each has good neighbours.
 */
export function poisonCorpus(session: string): CorpusRecord[] {
  const key = `acme:${session}`;
  const partition = partitionOf(key, partitions);
  const knownId = newId();
  const record = (name: string, fate: Fate, more: Partial<WireRecord>): CorpusRecord => ({
    name,
    fate,
    wire: { partition, key, value: posted(session, name), headers: headersOf(session), ...more },
  });
  const value = (name: string, fate: Fate, bytes: WireRecord['value']) =>
    record(name, fate, { value: bytes });
  const field = (name: string, fate: Fate, fields: Record<string, unknown>) =>
    record(name, fate, { value: posted(session, name, fields) });
  /** Written as text, for what JSON.stringify would not write. */
  const raw = (name: string, fate: Fate, member: string) =>
    value(name, fate, posted(session, name).replace(/\}$/, `,${member}}`));
  const header = (name: string, fate: Fate, headers: Parameters<typeof headersOf>[1]) =>
    record(name, fate, { headers: headersOf(session, headers) });
  const also = (
    name: string,
    fate: Fate,
    headers: Headers,
    bytes: WireRecord['value'] = posted(session, name),
  ) => record(name, fate, { headers: [...headersOf(session), ...headers], value: bytes });

  return [
    // The value is not JSON, or not UTF-8.
    value('bytes that are not UTF-8', dead('not_json'), Buffer.from([0xff, 0xfe, 0x00, 0x80])),
    value('an overlong form of a character', dead('not_json'), Buffer.from([0x22, 0xc0, 0x80, 0x22])),
    value('a surrogate encoded as UTF-8', dead('not_json'), Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22])),
    value('UTF-16 with its mark', dead('not_json'), Buffer.from(`\ufeff${posted(session, 'x')}`, 'utf16le')),
    value('JSON cut off', dead('not_json'), posted(session, 'x').slice(0, -9)),
    value('cut within a character', dead('not_json'), Buffer.from('{"message":"ü').subarray(0, -1)),
    value('no bytes', dead('not_json'), Buffer.alloc(0)),
    value('no value: a tombstone where none is allowed', dead('not_json'), null),
    value('spaces', dead('not_json'), ' \r\n\t '),
    value('two documents', dead('not_json'), `${posted(session, 'x')}${posted(session, 'y')}`),
    value('NaN', dead('not_json'), '{"message":NaN}'),
    value('a comment', dead('not_json'), `/* hello */${posted(session, 'x')}`),
    value('gzip that says it is JSON', dead('not_json'), gzipSync(posted(session, 'x'))),
    value('200 000 brackets that nobody closes', dead('not_json'), '['.repeat(200_000)),
    value('a megabyte of it', dead('not_json'), Buffer.alloc(1_000_000, 0x7b)),
    value('a megabyte of control characters', dead('not_json'), Buffer.alloc(1_000_000, 0x01)),
    // JSON, but not a value of the topic.
    value('null', dead('schema'), 'null'),
    value('a number', dead('schema'), '42'),
    value('a text', dead('schema'), '"text"'),
    value('a list', dead('schema'), '[]'),
    value('an object without its fields', dead('schema'), '{}'),
    value(
      'fields that only its prototype would have',
      dead('schema'),
      `{"__proto__":${posted(session, 'x')}}`,
    ),
    field('a field of another type', dead('schema'), { message: 5 }),
    field('an empty text', dead('schema'), { message: '' }),
    field('an id that is none', dead('schema'), { turn_id: 'turn-1' }),
    field('an id in capitals', dead('schema'), { turn_id: newId().toUpperCase() }),
    field('a time that is none', dead('schema'), { accepted_at: 'yesterday' }),
    field('the session of another key', dead('schema'), { session_id: newId() }),
    // JSON that no store keeps as it is.
    field('NUL in a text', dead('schema'), { message: 'a\u0000b' }),
    field('NUL in a name', dead('schema'), { metadata: { 'a\u0000b': 1 } }),
    raw('a lone high surrogate', dead('schema'), '"metadata":{"a":"\\ud800"}'),
    raw('a lone low surrogate in a name', dead('schema'), '"metadata":{"\\udc00x":1}'),
    raw('a number over all numbers', dead('schema'), '"metadata":{"n":1e400}'),
    raw('65 levels', dead('schema'), `"more":${nested(64)}`),
    raw('10 000 levels', dead('schema'), `"metadata":{"deep":${nested(10_000)}}`),
    value('10 000 levels and nothing else', dead('schema'), nested(10_000)),
    // The headers.
    record('no headers', dead('bad_headers'), { headers: [] }),
    header('no tenant_id', dead('bad_headers'), { tenant_id: undefined }),
    header('no event_id', dead('bad_headers'), { event_id: undefined }),
    header('no event_type', dead('schema'), { event_type: undefined }),
    header('no schema', dead('schema'), { schema: undefined }),
    header('the schema of another topic', dead('schema'), { schema: 'conversation.outbound.v1' }),
    header('a schema of the future', dead('schema'), { schema: 'conversation.inbound.v99' }),
    header('an event that nobody knows', dead('schema'), { event_type: 'message.imagined' }),
    header('an event named as what every object has', dead('schema'), { event_type: 'constructor' }),
    header('another tenant than the key', dead('bad_headers', '_unknown'), { tenant_id: 'globex' }),
    header('an empty tenant', dead('bad_headers'), { tenant_id: '' }),
    header('a tenant that is not UTF-8', dead('bad_headers'), { tenant_id: Buffer.from([0xff, 0x61]) }),
    header('another session than the key', dead('bad_headers'), { session_id: newId() }),
    header('a session with NUL', dead('bad_headers'), { session_id: `${session}\u0000` }),
    header('an event_id that is none', dead('bad_headers'), { event_id: '42' }),
    header('an event_id in capitals', dead('bad_headers'), { event_id: newId().toUpperCase() }),
    header('NUL in a header that goes into rows', dead('bad_headers'), { 'x-request-id': 'a\u0000b' }),
    header('a value encrypted by a later release', dead('content'), { key_id: 'k1' }),
    record('a header twice, another tenant first', dead('bad_headers', '_unknown'), {
      headers: [['tenant_id', 'globex'], ...headersOf(session)],
    }),
    also(
      'names that every object has, on poison',
      dead('not_json'),
      [
        ['__proto__', 'p'],
        ['constructor', 'c'],
        ['toString', 't'],
      ],
      '{',
    ),
    also('10 000 headers on poison', dead('not_json'), many(10_000), '{'),
    also('half a megabyte of header on poison', dead('not_json'), [['junk', 'j'.repeat(500_000)]], '{'),
    // The key.
    record('no key', dead('bad_key'), { key: null }),
    record('an empty key', dead('bad_key'), { key: '' }),
    record('a key without a tenant', dead('bad_key'), { key: session }),
    record('a tenant that is no slug', dead('bad_key'), { key: `ACME Inc:${session}` }),
    record('a tenant longer than any', dead('bad_key'), { key: `${'a'.repeat(41)}:${session}` }),
    record('a session that is no id', dead('bad_key'), { key: 'acme:1' }),
    record('a key with NUL', dead('bad_key'), { key: `${key}\u0000` }),
    record('a key with the end of a line', dead('bad_key'), { key: `${key}\r\n` }),
    record('a key that is not UTF-8', dead('bad_key'), { key: Buffer.from(`${key}\xff`, 'latin1') }),
    record('a key of 100 kB', dead('bad_key'), { key: `acme:${'k'.repeat(100_000)}` }),
    record('a key without a readable tenant anywhere', dead('bad_key', '_unknown'), {
      key: '::',
      headers: [],
    }),
    // Near misses: all of these must pass.
    record('nothing special', taken, {}),
    field('899 000 bytes', taken, { message: 'm'.repeat(898_000) }),
    field('a megabyte, over our limit and under the broker’s', taken, { message: 'm'.repeat(1_000_000) }),
    field('fields of a later minor release', taken, { mood: 'fine', more: { of: ['it'] } }),
    field('every kind of text', taken, {
      message:
        'é e\u0301 👩‍👩‍👧 مرحبا שלום 漢字 \u2028\ufeff\uffff\u{10ffff}\u0001\u007f\t\r\n "\\/ %00 \ue000',
    }),
    raw('surrogates in pairs', taken, '"metadata":{"a":"\\ud83d\\ude00"}'),
    raw(
      'keys that every object has',
      taken,
      `"metadata":{"__proto__":{"${pollution}":1},"constructor":{"prototype":{"${pollution}":1}}}`,
    ),
    raw('a key twice: the last counts', taken, '"persona_id":"other","persona_id":"assistant"'),
    raw('64 levels', taken, `"more":${nested(63)}`),
    raw(
      'numbers at the edge',
      taken,
      '"metadata":{"n":[18446744073709551616,-0,1e308,5e-324,9007199254740993]}',
    ),
    value('a byte order mark', taken, `\ufeff${posted(session, 'a byte order mark')}`),
    value('lines and spaces around', taken, `\r\n\t ${posted(session, 'lines and spaces around')}\r\n\r\n`),
    header('without the session in a header', taken, { session_id: undefined }),
    header('a traceparent that is none', taken, { traceparent: '00-not-a-trace\u0001' }),
    header('a traceparent of zeros', taken, { traceparent: `00-${'0'.repeat(32)}-${'0'.repeat(16)}-01` }),
    also('a header twice, the right one first', taken, [['tenant_id', 'globex']]),
    also('headers of others', taken, [
      ['x-of-others', 'a\u0000b'],
      ['not-text', Buffer.from([0xff, 0x00])],
      ['empty', ''],
      ['', 'without a name'],
      ['__proto__', 'p'],
      ['constructor', 'c'],
    ]),
    also('10 000 headers', taken, many(10_000)),
    also('half a megabyte of header', taken, [['junk', 'j'.repeat(500_000)]]),
    record('a time before all records', taken, { timestampMs: 1 }),
    header('an event id for the first time', taken, { event_id: knownId }),
    header('the event id of another, with another body', { kind: 'known' }, { event_id: knownId }),
  ];
}

function many(count: number): Headers {
  return Array.from({ length: count }, (_, n) => [`header-${n}`, String(n)] as const);
}
