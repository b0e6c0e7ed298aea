import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

const root = import.meta.dirname;

function foldersIn(folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && existsSync(join(root, folder, entry.name, 'package.json')))
    .map((entry) => `${folder}/${entry.name}`);
}

const packages = [
  ...foldersIn('libs'),
  ...foldersIn('apps'),
  ...foldersIn('tools'),
  'dev',
  'bench',
  'regression',
];

export default defineConfig({
  test: {
    // One real broker, database and cache for the whole run, started here unless the environment names others.
    globalSetup: ['./dev/src/test-setup.ts'],
    // Two files at once: the parts and the services that tests spawn share the machine with them.
    maxWorkers: 2,
    reporters: ['default', './tools/closing-line.ts'],
    coverage: {
      provider: 'v8',
      include: [
        'apps/*/src/**/*.ts',
        'libs/*/src/**/*.ts',
        'dev/src/**/*.ts',
        'dev/simulators/**/*.ts',
        'tools/tidy/src/**/*.ts',
      ],
      exclude: ['**/*.test.ts'],
      reporter: ['text-summary', 'json-summary'],
      // Services run as child processes; without this nothing they execute is counted.
      autoAttachSubprocess: true,
      thresholds: { lines: 80, statements: 80, functions: 80, branches: 70 },
    },
    projects: packages.map((folder) => ({
      extends: true,
      test: {
        name: folder.split('/').at(-1) ?? folder,
        root: join(root, folder),
        include: ['**/*.test.ts'],
        testTimeout: 30_000,
        hookTimeout: 60_000,
      },
    })),
  },
});
