import { describe, expect, test } from 'vitest';
import { tools } from './builtin-tools.ts';
import { calculator, shown } from './calculator.ts';
import { echo } from './echo.ts';
import { evaluate } from './expression.ts';
import { inZone, timestamp } from './timestamp.ts';

const context = { idempotencyKey: 'k', progress: () => undefined };

describe('arithmetic', () => {
  test.each([
    ['1 + 2 * 3', 7],
    ['(1 + 2) * 3', 9],
    ['2 ^ 3 ^ 2', 512],
    ['2 ** 3', 8],
    ['-2 ^ 2', -4],
    ['(-2) ^ 2', 4],
    ['2 ^ -1', 0.5],
    ['--3', 3],
    ['7 % 4', 3],
    ['-7 % 4', -3],
    ['10 / 4 / 5', 0.5],
    ['1.5e3 + .5', 1500.5],
    ['max(1, 2, 3) - min(4, 5)', -1],
    ['SQRT(16) * Pi / pi', 4],
    ['abs(-3) + round(2.5) + floor(1.9) + ceil(1.1)', 9],
    [' 6 * 7 ', 42],
  ])('%s is %d', (text, value) => {
    expect(evaluate(text)).toBeCloseTo(value, 12);
  });

  test.each([
    ['', 'expected a number at the end'],
    ['1 +', 'expected a number at the end'],
    ['1 1', 'unexpected 1 at 3'],
    ['(1', 'expected ) at the end'],
    ['1 / 0', 'division by zero'],
    ['5 % 0', 'division by zero'],
    ['9 ^ 9 ^ 9', 'not a finite number'],
    ['sqrt(-1)', 'not a finite number'],
    ['constructor', 'unknown name constructor at 1'],
    ['__proto__', 'unexpected "_" at 1'],
    ['process.exit(1)', 'unexpected "." at 8'],
    ['1; 2', 'unexpected ";" at 2'],
    ['abs(1, 2)', 'abs takes 1 value'],
    [`${'('.repeat(101)}1${')'.repeat(101)}`, 'nested deeper than 100'],
    [`${'2^'.repeat(101)}1`, 'nested deeper than 100'],
    [`${'abs('.repeat(200)}1`, 'nested deeper than 100'],
  ])('%s is refused', (text, message) => {
    expect(() => evaluate(text)).toThrow(message);
  });

  test('the longest allowed chains need no deep stack', () => {
    expect(evaluate(`${'-'.repeat(998)}1`)).toBe(1);
    expect(evaluate(Array(500).fill('1').join('+'))).toBe(500);
  });

  test('a result shows what a double holds', () => {
    expect([0.1 + 0.2, 1e21, -0, 1 / 3].map(shown)).toEqual(['0.3', '1e+21', '0', '0.333333333333333']);
  });
});

test('the calculator tells the model what was wrong', () => {
  expect(calculator.run({ expression: '6*7' }, context)).toBe('42');
  expect(() => calculator.run({ expression: '1/0' }, context)).toThrow('division by zero');
});

test('echo returns its text', () => {
  expect(echo.run({ text: 'héllo' }, context)).toBe('héllo');
});

test('a timestamp is in UTC, or in the zone asked for', () => {
  expect(timestamp.run({}, context)).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  const instant = new Date('2026-11-21T23:30:00Z');
  expect(inZone(instant, 'Europe/Berlin')).toBe('2026-11-22T00:30:00+01:00 (Europe/Berlin, Sunday)');
  expect(inZone(instant, 'UTC')).toBe('2026-11-21T23:30:00+00:00 (UTC, Saturday)');
  expect(() => inZone(instant, 'Mars/Olympus')).toThrow('unknown time zone "Mars/Olympus"');
});

test('each tool says what it takes and refuses other fields', () => {
  for (const tool of tools) {
    expect(tool.parameters).toMatchObject({ type: 'object', additionalProperties: false });
    expect(tool.name).toMatch(/^[a-z_]{1,64}$/);
  }
});
