import { existsSync, globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { defines, hasTest, type Mention, mentionsIn } from '../test/mentions.ts';

const root = join(import.meta.dirname, '../../..');
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const scripts = new Set(Object.keys(recordIn(JSON.parse(read('package.json')), 'scripts')));

function recordIn(value: unknown, name: string): object {
  const inside: unknown = typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
  return typeof inside === 'object' && inside !== null ? inside : {};
}

function wrongWith(mention: Mention): string | undefined {
  if (mention.kind === 'script') return scripts.has(mention.name) ? undefined : `no script ${mention.name}`;
  const { path } = mention;
  const isThere = path.includes('*')
    ? globSync(path, { cwd: root }).length > 0
    : existsSync(join(root, path));
  if (!isThere) return `no ${path}`;
  if (mention.kind === 'test') {
    return hasTest(read(path), mention.title) ? undefined : `no test "${mention.title}" in ${path}`;
  }
  if (mention.kind === 'path' || defines(read(path), mention.name)) return undefined;
  return `no ${mention.name} in ${path}`;
}

const pages = ['README.md', 'ARCHITECTURE.md', 'CONTRIBUTING.md', ...globSync('docs/**/*.md', { cwd: root })];

describe.each(pages)('%s', (page) => {
  it('mentions only what is there', () => {
    const wrong = mentionsIn(page, read(page)).flatMap((mention) => {
      const why = wrongWith(mention);
      return why === undefined ? [] : [`${page}:${mention.line}: ${why}`];
    });
    expect(wrong).toEqual([]);
  });
});

describe('mentions', () => {
  it('are found in text, code, links and tables', () => {
    const text = [
      'See `libs/x/src/a.ts:run`, [b](b.md#part) and [up](../README.md).',
      '| `apps/y/main.ts` | docs/z.md. | [out](https://example.org/apps/no) |',
      'npm run env-example && npm start',
      '| a fault | `libs/x/src/a.test.ts`: "does it, once" |',
      '`apps/*/src` (libs/q/0001_a-b.sql:gateway.accept)',
    ].join('\n');
    expect(mentionsIn('docs/page.md', text)).toEqual([
      { kind: 'path', line: 1, path: 'docs/b.md' },
      { kind: 'path', line: 1, path: 'README.md' },
      { kind: 'function', line: 1, path: 'libs/x/src/a.ts', name: 'run' },
      { kind: 'path', line: 2, path: 'apps/y/main.ts' },
      { kind: 'path', line: 2, path: 'docs/z.md' },
      { kind: 'script', line: 3, name: 'env-example' },
      { kind: 'script', line: 3, name: 'start' },
      { kind: 'path', line: 4, path: 'libs/x/src/a.test.ts' },
      { kind: 'test', line: 4, path: 'libs/x/src/a.test.ts', title: 'does it, once' },
      { kind: 'path', line: 5, path: 'apps/*/src' },
      { kind: 'function', line: 5, path: 'libs/q/0001_a-b.sql', name: 'gateway.accept' },
    ]);
  });

  it('name a test by its whole title', () => {
    const source = "it('does it, once', async () => {});";
    expect(hasTest(source, 'does it, once')).toBe(true);
    expect(hasTest(source, 'does it')).toBe(false);
  });

  it('name what a source defines, not what it calls', () => {
    expect(defines('export async function run(x) {}', 'run')).toBe(true);
    expect(defines('  claimWithin<T>(\n', 'claimWithin')).toBe(true);
    expect(defines('  direct: (a) => b,', 'direct')).toBe(true);
    expect(defines('create function gateway.accept(\n', 'gateway.accept')).toBe(true);
    expect(defines('  await run(x);', 'run')).toBe(false);
    expect(defines('const runs = 1;', 'run')).toBe(false);
  });
});
