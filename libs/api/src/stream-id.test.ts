import { expect, it } from 'vitest';
import { comparePositions, formatStreamId, parseStreamId } from './stream-id.ts';

it.each(['1-0', '1-42', '12-9223372036854775807', '0-0'])('reads and writes %s', (text) => {
  const position = parseStreamId(text);
  expect(position && formatStreamId(position)).toBe(text);
});

it.each([
  '',
  '1',
  '-',
  '1-',
  '-1',
  '01-1',
  '1-01',
  '1-+1',
  '1-1 ',
  ' 1-1',
  '1-1-1',
  'a-b',
  '1-9223372036854775808',
  '$',
  '1-*',
  '٣-١',
])('refuses %j', (text) => expect(parseStreamId(text)).toBeUndefined());

it('orders by epoch, then by offset as a number', () => {
  const ids = ['2-1', '1-10', '1-9', '1-9007199254740993', '1-9007199254740992'];
  const sorted = ids
    .map((id) => parseStreamId(id) ?? { epoch: 0, position: 0n })
    .sort(comparePositions)
    .map(formatStreamId);
  expect(sorted).toEqual(['1-9', '1-10', '1-9007199254740992', '1-9007199254740993', '2-1']);
});
