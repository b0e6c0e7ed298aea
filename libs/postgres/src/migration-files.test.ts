import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { migrationFiles, refuseGaps } from './migration-files.ts';
import { expectedMigrations } from './schema-version.ts';

const roots: string[] = [];
afterEach(() => {
  for (const root of roots.splice(0)) rmSync(root, { recursive: true });
});

function workspace(...paths: string[]): string {
  const root = mkdtempSync(join(tmpdir(), 'migrations-'));
  roots.push(root);
  for (const path of paths) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), 'SELECT 1;');
  }
  return root;
}

test('one order by number over all packages', () => {
  const root = workspace(
    'apps/gateway/migrations/0030_b.sql',
    'libs/postgres/migrations/0001_a.sql',
    'apps/x/migrations/0005_c.ts',
  );
  expect(migrationFiles(root).map((file) => file.name)).toEqual(['0001_a', '0005_c', '0030_b']);
});

test('a number taken twice and a name out of form are refused', () => {
  expect(() =>
    migrationFiles(workspace('libs/a/migrations/0001_a.sql', 'libs/b/migrations/0001_b.sql')),
  ).toThrow(/is taken by/);
  expect(() => migrationFiles(workspace('libs/a/migrations/notes.md'))).toThrow(/not named like/);
});

test('a package’s own order holds, other packages may come later', () => {
  const files = migrationFiles(
    workspace(
      'libs/a/migrations/0010_one.sql',
      'libs/a/migrations/0011_two.sql',
      'apps/b/migrations/0030_b.sql',
    ),
  );
  expect(() => refuseGaps(files, new Set(['0010_one', '0030_b']))).not.toThrow();
  expect(() => refuseGaps(files, new Set(['0011_two']))).toThrow(/0010_one has not run/);
});

test('a service expects the libraries’ migrations and its own', () => {
  const expected = expectedMigrations('gateway');
  expect(expected).toContain('0001_roles-and-protection');
  expect(expected.some((name) => name.startsWith('003'))).toBe(true);
  expect(expected.some((name) => name.startsWith('004'))).toBe(false);
});
