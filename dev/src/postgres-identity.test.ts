import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { canReach } from './postgres-identity.ts';

test('a folder under a closed one cannot be reached by another user', () => {
  const closed = mkdtempSync(join(tmpdir(), 'closed-'));
  const inner = join(closed, 'data');
  mkdirSync(inner, { mode: 0o755 });
  const stranger = { uid: 54_321, gid: 54_321 };
  expect(canReach(inner, stranger)).toBe(false);
  expect(canReach(inner, { uid: process.getuid?.() ?? 0, gid: 0 })).toBe(true);
  chmodSync(closed, 0o711);
  expect(canReach(inner, stranger)).toBe(true);
  rmSync(closed, { recursive: true });
});
