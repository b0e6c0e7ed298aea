import { isFault } from '@signalbox/faults/fault';
import { describe, expect, it } from 'vitest';
import { parseStrictJson } from './strict-json.ts';

function read(text: string | Buffer): unknown {
  return parseStrictJson(Buffer.isBuffer(text) ? text : Buffer.from(text));
}

function refusal(text: string | Buffer): { status: number; paths: string[] | undefined } {
  try {
    read(text);
  } catch (error) {
    if (isFault(error)) return { status: error.status, paths: error.errors?.map((each) => each.path) };
    throw error;
  }
  throw new Error('was taken');
}

describe('parseStrictJson', () => {
  it('reads what JSON.parse reads', () => {
    for (const text of [
      '{"a":1,"b":[true,null,{"c":"d"}],"e":-1.5e3}',
      '"a : b { [ \\" ] }"',
      '[]',
      '{}',
      ' {"a" : {"a" : {"a" : 1}}} ',
      '{"tab\\tkey\\\\":"\\u00e4 \\ud83d\\ude00","b":"\\"c\\":1"}',
      '{"__proto__":1,"constructor":{"prototype":2}}',
      '{"1":1,"0":0}',
      'null',
      '12',
    ]) {
      expect(read(text)).toEqual(JSON.parse(text));
    }
  });

  it.each([
    ['no JSON', '{a:1}'],
    ['cut', '{"a":1'],
    ['empty', ''],
    ['two values', '1 2'],
    ['raw NUL', '"a\0b"'],
    ['BOM', '\ufeff{}'],
    ['a hundred thousand open brackets', '['.repeat(100_000)],
  ])('answers 400 to %s', (_name, text) => {
    expect(refusal(text).status).toBe(400);
  });

  it('answers 400 to bytes that are not UTF-8', () => {
    expect(refusal(Buffer.from([0x22, 0xff, 0x22])).status).toBe(400);
    expect(refusal(Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22])).status).toBe(400); // a surrogate written out
  });

  it.each([
    ['{"a":1,"a":2}', '/a'],
    ['{"x":[0,{"b/c":1,"d":2,"b/c":1}]}', '/x/1/b~1c'],
    ['{"a":1,"\\u0061":2}', '/a'],
    ['{"__proto__":1,"__proto__":2}', '/__proto__'],
    ['{"a":"\\"b\\":","a":1}', '/a'],
    ['{"a":{"b":1},"a":{"b":1}}', '/a'],
  ])('answers 400 and the place to the repeated key in %s', (text, path) => {
    expect(refusal(text)).toEqual({ status: 400, paths: [path] });
  });

  it.each([
    ['{"a":"x\\u0000y"}', ['/a']],
    ['["ok","\\ud800"]', ['/1']],
    ['{"a":{"b":"\\udc00\\ud800"}}', ['/a/b']],
    ['{"\\u0000":1}', ['/\0']],
    ['{"n":1e999}', ['/n']],
    ['{"n":[-1e999]}', ['/n/0']],
  ])('answers 422 and the place to %s', (text, paths) => {
    expect(refusal(text)).toEqual({ status: 422, paths });
  });

  it('takes 64 levels and no more', () => {
    const nested = (depth: number) => `${'[{"a":'.repeat(depth / 2)}1${'}]'.repeat(depth / 2)}`;
    expect(read(nested(64))).toBeDefined();
    expect(refusal(nested(66)).status).toBe(422);
    expect(refusal(`${'['.repeat(65)}${']'.repeat(65)}`).status).toBe(422);
  });

  it('lists at most twenty places', () => {
    expect(refusal(JSON.stringify(Array(100).fill('\0'))).paths?.length).toBe(20);
  });
});
