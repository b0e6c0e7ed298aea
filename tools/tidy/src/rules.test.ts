import { describe, expect, it } from 'vitest';
import { findUntidy } from './tidy.ts';
import { readManifest, sourceFile, type Workspace } from './workspace.ts';

const manifests: Record<string, object> = {
  'libs/contracts': { name: '@signalbox/contracts', exports: { './ids': './src/ids.ts' } },
  'libs/faults': {
    name: '@signalbox/faults',
    exports: { './fault': './src/fault.ts' },
    dependencies: { '@signalbox/contracts': '*' },
  },
  'libs/lifecycle': {
    name: '@signalbox/lifecycle',
    exports: { './lifecycle': './src/lifecycle.ts' },
    dependencies: { '@signalbox/faults': '*' },
  },
  'libs/config': {
    name: '@signalbox/config',
    exports: {},
    dependencies: { '@signalbox/faults': '*', dotenv: '1' },
  },
  'libs/telemetry': {
    name: '@signalbox/telemetry',
    exports: { './telemetry': './src/telemetry.ts' },
    dependencies: { '@signalbox/config': '*', '@opentelemetry/api': '1' },
  },
  'libs/postgres': {
    name: '@signalbox/postgres',
    exports: { './database': './src/database.ts' },
    dependencies: { pg: '1' },
  },
  'libs/redis': {
    name: '@signalbox/redis',
    exports: { './redis': './src/redis.ts' },
    dependencies: { ioredis: '1', '@signalbox/postgres': '*' },
  },
  'libs/messaging': {
    name: '@signalbox/messaging',
    exports: { './outbox': './src/outbox.ts' },
    dependencies: { kafkajs: '1', '@signalbox/postgres': '*', '@signalbox/redis': '*' },
  },
  'libs/testkit': {
    name: '@signalbox/testkit',
    exports: { './wait': './src/wait.ts' },
    dependencies: { '@signalbox/postgres': '*' },
  },
  'apps/gateway': {
    name: '@signalbox/gateway',
    dependencies: { '@signalbox/messaging': '*', '@signalbox/cli': '*', '@signalbox/testkit': '*', ajv: '1' },
    devDependencies: { undici: '1' },
  },
  'apps/cli': { name: '@signalbox/cli', exports: { './x': './src/x.ts' }, dependencies: { commander: '1' } },
  dev: { name: '@signalbox/dev', dependencies: {} },
};

/** Findings of one file in a workspace where everything else is in order, as `line rule`. */
function findings(path: string, text: string, others: Record<string, string> = {}): string[] {
  const workspace: Workspace = {
    files: [
      sourceFile(path, text),
      // Something that leads to the file, so that it is not also unreferenced.
      ...Object.entries(others).map(([other, content]) => sourceFile(other, content)),
    ],
    packages: Object.entries(manifests).map(([folder, manifest]) =>
      readManifest(folder, JSON.stringify(manifest)),
    ),
    rootDevDependencies: new Set(['vitest']),
    otherTexts: [{ path: 'package.json', text: path.split('/').slice(-2).join('/') }],
  };
  return findUntidy(workspace)
    .filter((each) => each.file === path)
    .map((each) => `${each.line} ${each.rule}`);
}

const inGateway = 'apps/gateway/src/accept.ts';

describe('rooms', () => {
  it.each([
    [
      'libs/contracts/src/ids.ts',
      "import { fault } from '@signalbox/faults/fault';",
      'contract may not import base',
    ],
    ['libs/faults/src/fault.ts', "import { x } from '@signalbox/lifecycle/lifecycle';", 'base has an order'],
    ['libs/config/src/x.ts', "import { x } from '@signalbox/telemetry/telemetry';", 'base has an order'],
    [
      'libs/telemetry/src/x.ts',
      "import { x } from '@signalbox/postgres/database';",
      'base may not import edge',
    ],
    [
      'libs/redis/src/redis.ts',
      "import { x } from '@signalbox/postgres/database';",
      'edge may not import edge',
    ],
    [
      'libs/messaging/src/x.ts',
      "import { x } from '@signalbox/redis/redis';",
      'an exception is for one room',
    ],
    [inGateway, "import { x } from '@signalbox/cli/x';", 'no app imports an app'],
    [inGateway, "import { x } from '@signalbox/testkit/wait';", 'only tests import testkit'],
    [inGateway, "import { x } from '../../cli/src/x.ts';", 'relative imports stay inside'],
    [inGateway, "import type { X } from '@signalbox/cli/x';", 'types too'],
    [inGateway, "export { x } from '@signalbox/cli/x';\nconst a = 1;", 'exports too'],
    [inGateway, "const x = await import('@signalbox/cli/x');", 'dynamic ones too'],
  ])('%s: %s (%s)', (path, text) => {
    expect(findings(path, text)).toContain('1 rooms');
  });

  it.each([
    ['libs/messaging/src/outbox.ts', "import { x } from '@signalbox/postgres/database';"],
    [inGateway, "import { x } from '@signalbox/messaging/outbox';"],
    ['apps/gateway/src/accept.test.ts', "import { waitFor } from '@signalbox/testkit/wait';"],
    ['libs/testkit/src/wait.ts', "import { x } from '@signalbox/postgres/database';"],
    [
      inGateway,
      "// import { x } from '@signalbox/cli/x';\nconst text = \"import { x } from '@signalbox/cli/x'\";",
    ],
  ])('%s: %s is in order', (path, text) => {
    expect(findings(path, text)).toEqual([]);
  });
});

describe('declared', () => {
  it.each([
    [inGateway, "import x from 'left-pad';"],
    [inGateway, "import { x } from '@signalbox/contracts/ids';"],
    [inGateway, "import x from 'undici';"],
    [inGateway, "import { x } from '@signalbox/messaging/secret';"],
    [inGateway, "import { x } from '@signalbox/messaging';"],
    [inGateway, "import fs from 'fs';"],
    [inGateway, "import {\n  a,\n  b,\n} from 'left-pad';"],
  ])('%s: %s', (path, text) => {
    expect(findings(path, text).map((each) => each.split(' ')[1])).toContain('declared');
  });

  it.each([
    [inGateway, "import Ajv from 'ajv/dist/2020.js';\nimport { join } from 'node:path';"],
    ['apps/gateway/src/accept.test.ts', "import { it } from 'vitest';\nimport { fetch } from 'undici';"],
  ])('%s: %s is in order', (path, text) => {
    expect(findings(path, text)).toEqual([]);
  });
});

describe('one importer a driver', () => {
  it.each([
    ['libs/postgres/src/database.ts', "import { Kafka } from 'kafkajs';"],
    [inGateway, "import pg from 'pg';"],
    [inGateway, "import type { Redis } from 'ioredis';"],
    [inGateway, "import { trace } from '@opentelemetry/api';"],
    ['apps/gateway/src/accept.test.ts', "import { Kafka } from 'kafkajs';"],
    [inGateway, "const { Kafka } = require('kafkajs');"],
  ])('%s: %s', (path, text) => {
    expect(findings(path, text)).toContain('1 driver');
  });

  it('is in its own room in order', () => {
    expect(findings('libs/messaging/src/outbox.ts', "import { Kafka } from 'kafkajs';")).toEqual([]);
  });
});

describe('the process', () => {
  it.each([
    [inGateway, 'const x = process.env.X;', 'environment'],
    [inGateway, "const x = process['env'];", 'environment'],
    [inGateway, "import { env } from 'node:process';", 'environment'],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the sample is source code
    [inGateway, 'const text = `${process.env.X}`;', 'environment'],
    [inGateway, 'process.exit(1);', 'exit'],
    [inGateway, 'process . abort ();', 'exit'],
    [inGateway, "process.on('SIGTERM', stop);", 'exit'],
    [inGateway, "process.once('unhandledRejection', stop);", 'exit'],
    [inGateway, "console.log('x');", 'console'],
    ['libs/faults/src/fault.test.ts', "console.error('x');", 'console'],
  ])('%s: %s → %s', (path, text, rule) => {
    expect(findings(path, text)).toContain(`1 ${rule}`);
  });

  it.each([
    ['libs/config/src/sources.ts', 'const x = process.env.X;'],
    ['libs/lifecycle/src/lifecycle.ts', "process.on('SIGTERM', () => process.exit(0));"],
    ['apps/cli/src/main.ts', "console.log('x'); process.exitCode = 1;"],
    ['dev/src/start.ts', "console.log('x');"],
    [inGateway, "process.on('exit', stop); process.exitCode = 1; const env = { console: 1 };"],
    [inGateway, '// process.env.X, process.exit(1), console.log\nconst text = "process.env.X";'],
    [inGateway, 'const form = /process.env|console.log/;'],
  ])('%s: %s is in order', (path, text) => {
    expect(findings(path, text)).toEqual([]);
  });
});

describe('files', () => {
  it('that nothing leads to, or only a test, are found', () => {
    const file = (path: string, text: string) => sourceFile(path, text);
    const workspace: Workspace = {
      files: [
        file(
          'apps/gateway/src/main.ts',
          "import './used.ts';\nimport '@signalbox/messaging/outbox';\nnew URL('./child.ts', import.meta.url);",
        ),
        file('apps/gateway/src/used.ts', 'export {};'),
        file('apps/gateway/src/child.ts', 'export {};'),
        file('apps/gateway/src/tested.ts', 'export {};'),
        file('apps/gateway/src/tested.test.ts', "import './tested.ts';\nimport '../test/helping.ts';"),
        file('apps/gateway/test/helping.ts', 'export {};'),
        file('apps/gateway/test/forgotten.ts', 'export {};'),
        file('apps/gateway/src/ring-a.ts', "import './ring-b.ts';"),
        file('apps/gateway/src/ring-b.ts', "import './ring-a.ts';"),
        file('apps/gateway/src/scripted.ts', 'export {};'),
        file('apps/gateway/migrations/0030-x.ts', 'export {};'),
        file('libs/messaging/src/outbox.ts', "import './row.ts';"),
        file('libs/messaging/src/row.ts', 'export {};'),
      ],
      packages: Object.entries(manifests).map(([folder, manifest]) =>
        readManifest(folder, JSON.stringify(manifest)),
      ),
      rootDevDependencies: new Set(),
      otherTexts: [
        { path: 'package.json', text: '{"scripts":{"x":"node apps/gateway/src/scripted.ts"}}' },
        { path: 'README.md', text: 'apps/gateway/src/tested.ts' },
      ],
    };
    const found = findUntidy(workspace).filter((each) => each.rule === 'unreferenced');
    expect(found.map((each) => each.file)).toEqual([
      'apps/gateway/src/ring-a.ts',
      'apps/gateway/src/ring-b.ts',
      'apps/gateway/src/tested.ts',
      'apps/gateway/test/forgotten.ts',
    ]);
  });

  it.each([
    ["export { a } from './a.ts';\nexport * from './b.ts';", true],
    ["export type { A } from './a.ts';", true],
    ["// all of it\nimport './c.ts';\nexport { a, type B } from './a.ts';\n", true],
    ["export { a } from './a.ts';\nexport const b = 1;", false],
    ['export const b = 1;', false],
  ])('%j is a barrel: %s', (text, barrel) => {
    expect(findings(inGateway, text).some((each) => each.endsWith('barrel'))).toBe(barrel);
  });

  it('stay under 400 lines', () => {
    expect(findings(inGateway, 'x;\n'.repeat(399))).toEqual([]);
    expect(findings(inGateway, 'x;\n'.repeat(400))).toEqual(['400 length']);
  });

  it('have a name that says something', () => {
    expect(findings('apps/gateway/src/utils.ts', '')).toEqual(['1 name']);
    expect(findings('apps/gateway/src/index.ts', '')).toEqual(['1 name']);
  });

  it('do not lead out of the project', () => {
    const outside = ['..', 'shared'].join('/');
    expect(findings(inGateway, `// see ${outside}/notes.md\n`)).toEqual(['1 outside']);
    for (const paper of ['DELI-VERY 5', 'CONTR-ACTS', 'BEN-CH 3', 'DES-IGN.md']) {
      expect(findings(inGateway, `// ${paper.replace('-', '')}\n`), paper).toEqual(['1 outside']);
    }
    expect(findings(inGateway, '// delivery rule 5; the design of the bench\n')).toEqual([]);
  });
});

describe('syntax that must be erasable, and doubts', () => {
  it.each([
    ['enum Color { Red }', 'syntax'],
    ['export const enum Color { Red }', 'syntax'],
    ['namespace A { }', 'syntax'],
    ['class A { constructor(private readonly x: string) {} }', 'syntax'],
    ['class A { constructor(\n  a: string,\n  readonly b: string,\n) {} }', 'syntax'],
    ['const x: any = 1;', 'doubt'],
    ['const x = y as any;', 'doubt'],
    ['const x: any[] = [];', 'doubt'],
    ['function f(x: Map<string, any>) {}', 'doubt'],
    ['// @ts-ignore\nx;', 'doubt'],
    ['/* @ts-nocheck */', 'doubt'],
  ])('%s → %s', (text, rule) => {
    expect(findings(inGateway, text).map((each) => each.split(' ')[1])).toContain(rule);
  });

  it.each([
    "declare module 'fastify' { interface A { x: 1 } }",
    'const enumerate = { enum: [1] }; const any = 1; const of = { any: any ? 1 : 2 };',
    'const x = await Promise.any([]); expect.any(String);',
    'class A { constructor(x: string) { const readonly = x; } }',
    'const text = "@ts-ignore, enum A {}, x: any";',
  ])('%s is in order', (text) => {
    expect(findings(inGateway, text)).toEqual([]);
  });
});
