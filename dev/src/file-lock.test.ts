import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { lockHolder, releaseLock, takeLock, withFileLock } from './file-lock.ts';

let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lock-'));
  file = join(folder, 'lock');
});
afterEach(() => rmSync(folder, { recursive: true }));

describe('a lock file', () => {
  test('one holder at a time, and nothing left beside it', () => {
    expect(takeLock(file)).toBeUndefined();
    expect(takeLock(file)).toBe(process.pid);
    expect(lockHolder(file)).toBe(process.pid);
    releaseLock(file);
    expect(lockHolder(file)).toBeUndefined();
    expect(readdirSync(folder)).toEqual([]);
  });

  test('a dead holder is taken over, also when another program has its pid by now', () => {
    writeFileSync(file, '999999999\nnode dev/src/start.ts');
    expect(takeLock(file)).toBeUndefined();
    writeFileSync(file, `${process.ppid}\na program that ended long ago`);
    expect(lockHolder(file)).toBeUndefined();
    expect(takeLock(file)).toBeUndefined();
    releaseLock(file);
  });

  test("somebody else's is not given back", () => {
    writeFileSync(file, '1\ninit');
    releaseLock(file);
    expect(readdirSync(folder)).toEqual(['lock']);
  });

  test('work under it runs one after the other', async () => {
    const order: string[] = [];
    const work = (name: string) => async () => {
      order.push(`${name} in`);
      await new Promise((resolve) => setTimeout(resolve, 20));
      order.push(`${name} out`);
    };
    await Promise.all([withFileLock(file, 5_000, work('a')), withFileLock(file, 5_000, work('b'))]);
    expect(order).toEqual(['a in', 'a out', 'b in', 'b out']);
  });
});
