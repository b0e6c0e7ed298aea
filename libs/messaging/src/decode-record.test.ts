import { newId } from '@signalbox/contracts/ids';
import { describe, expect, it } from 'vitest';
import { poisonCorpus } from '../test/conformance/poison-corpus.ts';
import type { WireRecord } from '../test/wire.ts';
import { decodeRecord, type RawRecord } from './decode-record.ts';

const session = newId();

function rawRecord(wire: WireRecord): RawRecord {
  const bytes = (each: Buffer | string | null) => (typeof each === 'string' ? Buffer.from(each) : each);
  const headers = new Map<string, Buffer[]>();
  for (const [name, value] of wire.headers)
    headers.set(name, [...(headers.get(name) ?? []), Buffer.from(value)]);
  return {
    offset: 1n,
    key: bytes(wire.key),
    value: bytes(wire.value),
    headers: Object.fromEntries(headers),
    timestampMs: 0,
  };
}

const decode = (wire: WireRecord, more: Partial<RawRecord> = {}) =>
  decodeRecord('conversation.inbound', 0, { ...rawRecord(wire), ...more }, undefined);

describe('decodeRecord', () => {
  it.each(poisonCorpus(session).map((each) => [each.name, each] as const))('%s', (_, { fate, wire }) => {
    const decoded = decode(wire);
    const found =
      decoded.kind === 'poison'
        ? { kind: 'dead', reason: decoded.poison.reason, tenant: decoded.poison.tenant }
        : { kind: decoded.kind === 'record' ? 'taken' : decoded.kind };
    expect(found).toEqual(fate.kind === 'known' ? { kind: 'taken' } : fate);
  });

  it('takes a header without a value for none', () => {
    const wire = poisonCorpus(session)[0]?.wire;
    if (wire === undefined) throw new Error('an empty corpus');
    const decoded = decode(wire, { headers: { tenant_id: null, event_id: [null, Buffer.from(newId())] } });
    expect(decoded).toMatchObject({ kind: 'poison', poison: { reason: 'bad_headers', headers: {} } });
  });

  it('passes on a traceparent that can be read, and no other', () => {
    const of = (name: string) => {
      const found = poisonCorpus(session).find((each) => each.name === name);
      const decoded = found === undefined ? undefined : decode(found.wire);
      return decoded?.kind === 'record' ? decoded.record.traceparent : 'not taken';
    };
    expect(of('a traceparent that is none')).toBeUndefined();
    expect(of('a traceparent of zeros')).toBeUndefined();
  });
});
