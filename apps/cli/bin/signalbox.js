#!/usr/bin/env node
// Runs src/main.ts with a Node that takes TypeScript as it is: this one, or the one that npm installed beside us.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const main = join(import.meta.dirname, '..', 'src', 'main.ts');
if (Number(process.versions.node.split('.')[0]) >= 24) {
  await import(main);
} else {
  const manifest = createRequire(import.meta.url).resolve('node/package.json');
  const node = join(dirname(manifest), 'bin', process.platform === 'win32' ? 'node.exe' : 'node');
  const { status, error } = spawnSync(node, [main, ...process.argv.slice(2)], { stdio: 'inherit' });
  if (error !== undefined) console.error(`cannot start ${node}: ${error.message}`);
  process.exitCode = status ?? 70;
}
