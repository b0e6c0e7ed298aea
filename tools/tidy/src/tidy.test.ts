import { join } from 'node:path';
import { expect, it } from 'vitest';
import { tidy } from './tidy.ts';

it('finds nothing in this workspace', () => {
  const lines = tidy(join(import.meta.dirname, '../../..')).map(
    (each) => `${each.file}:${each.line}: ${each.rule}: ${each.message}`,
  );
  expect(lines).toEqual([]);
});
