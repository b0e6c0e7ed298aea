import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { runProgram } from './part-process.ts';
import { jarsFolder } from './parts.ts';
import { noProgress } from './progress.ts';
import { readZipEntry } from './read-zip-entry.ts';
import { unpackRedis } from './redis-part.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'redis-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

test("a machine without redis-server gets the one out of Maven's jar, and it runs", async () => {
  const jarsDir = jarsFolder(join(import.meta.dirname, '..', '..'));
  const program = await unpackRedis({ jarsDir, progress: noProgress });
  const { code, output } = await runProgram(program, ['--version']);
  expect(output).toContain('Redis server v=6.2');
  expect(code).toBe(0);
  expect(
    await readZipEntry(join(jarsDir, 'redis', 'embedded-redis-1.4.3.jar'), 'no such entry'),
  ).toBeUndefined();
}, 120_000);
