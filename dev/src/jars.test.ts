import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { checkJars, ensureJars, parseSums } from './jars.ts';
import { javaMajor } from './java.ts';
import { noProgress } from './progress.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'jars-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

describe('fetched jars', () => {
  test('are held against their checksums', async () => {
    writeFileSync(join(folder, 'good.jar'), 'good');
    writeFileSync(join(folder, 'changed.jar'), 'changed');
    writeFileSync(join(folder, 'added.jar'), 'added');
    const sums = parseSums(
      `${sha256('good')}  good.jar\n${sha256('as it was')}  changed.jar\n${sha256('x')} *gone.jar\n`,
    );
    expect(await checkJars(folder, sums)).toEqual([
      'added.jar is not listed',
      'changed.jar has other contents than pinned',
      'gone.jar is missing',
    ]);
  });

  test('are not fetched again once they were found good', async () => {
    const pins = `${sha256('good')}  good.jar\n`;
    const recipe = join(folder, 'recipe');
    const cached = join(folder, 'cache', 'set');
    for (const each of [recipe, cached]) mkdirSync(each, { recursive: true });
    writeFileSync(join(recipe, 'SHA256SUMS'), pins);
    writeFileSync(join(cached, 'good.jar'), 'good');
    writeFileSync(join(cached, 'verified'), sha256(pins));
    // There is no pom: a fetch would fail.
    expect(
      await ensureJars({ recipe, name: 'set', cache: join(folder, 'cache'), progress: noProgress }),
    ).toBe(cached);
  });

  test.each(['kafka', 'redis', 'zipkin'])('every jar of %s has a checksum', (name) => {
    const text = readFileSync(join(import.meta.dirname, '..', name, 'SHA256SUMS'), 'utf8');
    expect(parseSums(text).size).toBe(text.trimEnd().split('\n').length);
  });
});

test.each([
  ['openjdk version "17.0.15" 2025-04-15', 17],
  ['java version "1.8.0_402"', 8],
  ['openjdk version "25-ea" 2026-09-15', 25],
  ['The operation couldn’t be completed. Unable to locate a Java Runtime.', undefined],
])('%s is Java %s', (output, major) => {
  expect(javaMajor(output)).toBe(major);
});
