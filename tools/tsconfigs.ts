/**
 * Writes every package's tsconfig.json and the root's reference list from the package.json files, so that the
 * dependency graph is stated once. `--check` fails when a file is not what it would write.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';

const root = join(import.meta.dirname, '..');
const check = process.argv.includes('--check');

function packageFolders(): string[] {
  const inFolder = (folder: string) =>
    readdirSync(join(root, folder), { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && existsSync(join(root, folder, entry.name, 'package.json')))
      .map((entry) => `${folder}/${entry.name}`);
  return [
    ...inFolder('libs'),
    ...inFolder('apps'),
    ...inFolder('tools'),
    'dev',
    'bench',
    'regression',
  ].sort();
}

interface Package {
  folder: string;
  name: string;
  uses: string[];
}

function readPackage(folder: string): Package {
  const manifest: { name: string; dependencies?: Record<string, string> } = JSON.parse(
    readFileSync(join(root, folder, 'package.json'), 'utf8'),
  );
  const uses = Object.keys(manifest.dependencies ?? {}).filter((name) => name.startsWith('@signalbox/'));
  return { folder, name: manifest.name, uses };
}

const packages = packageFolders().map(readPackage);
const folderOf = new Map(packages.map((each) => [each.name, each.folder]));

let stale = 0;
function put(path: string, content: unknown): void {
  const text = `${JSON.stringify(content, null, 2)}\n`;
  const file = join(root, path);
  const same =
    existsSync(file) && JSON.stringify(JSON.parse(readFileSync(file, 'utf8'))) === JSON.stringify(content);
  if (same) return;
  if (check) {
    console.error(`${path}: stale, run node tools/tsconfigs.ts`);
    stale += 1;
    return;
  }
  writeFileSync(file, text);
}

for (const { folder, uses } of packages) {
  const up = relative(join(root, folder), root);
  const references = uses.map((name) => {
    const target = folderOf.get(name);
    if (target === undefined)
      throw new Error(`${folder}/package.json: ${name} is no package of this workspace`);
    return { path: relative(join(root, folder), join(root, target)) };
  });
  put(join(folder, 'tsconfig.json'), {
    extends: join(up, 'tsconfig.base.json'),
    include: ['src/**/*.ts', 'migrations/**/*.ts', ...(folder === 'dev' ? ['simulators/**/*.ts'] : [])],
    exclude: ['**/*.test.ts', '**/*.regression.ts', '.types'],
    references,
  });
}
put('tsconfig.json', {
  files: [],
  references: [...packages.map(({ folder }) => ({ path: `./${folder}` })), { path: './tsconfig.test.json' }],
});
put('tsconfig.test.json', {
  extends: './tsconfig.base.json',
  compilerOptions: { outDir: './.types', tsBuildInfoFile: './.types/tsconfig.test.tsbuildinfo' },
  include: [
    ...packages.map(({ folder }) => `${folder}/**/*.test.ts`),
    ...packages.map(({ folder }) => `${folder}/**/*.regression.ts`),
    ...packages.map(({ folder }) => `${folder}/test/**/*.ts`),
    'tools/*.ts',
    'vitest.config.ts',
    'vitest.regression.config.ts',
  ],
  exclude: ['**/node_modules', '**/.types'],
  references: packages.map(({ folder }) => ({ path: `./${folder}` })),
});
if (stale > 0) process.exitCode = 1;
