import { isBuiltin } from 'node:module';

import {
  baseOrder,
  below,
  driverGuests,
  drivers,
  emptyNames,
  maxLines,
  owners,
  rooms,
  testRooms,
  testSetup,
} from './rooms.ts';
import {
  baseName,
  type Package,
  packageOf,
  resolveImport,
  type SourceFile,
  type Workspace,
} from './workspace.ts';

export interface Finding {
  readonly file: string;
  readonly line: number;
  readonly rule: string;
  readonly message: string;
}

/** A rule looks at one file and says what is wrong in it. */
export type Rule = (file: SourceFile, workspace: Workspace) => Finding[];

function finding(file: SourceFile, line: number, rule: string, message: string): Finding {
  return { file: file.path, line, rule, message };
}

/** Places where the pattern stands in code: not in a comment, not in a string. */
function inCode(
  file: SourceFile,
  pattern: RegExp,
  rule: string,
  message: (text: string) => string,
): Finding[] {
  return [...file.source.code.matchAll(pattern)].map((match) =>
    finding(file, file.source.lineOf(match.index + match[0].search(/\S/)), rule, message(match[0].trim())),
  );
}

/** The name of the npm package that a bare specifier belongs to. */
function packageName(specifier: string): string {
  return specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/');
}

function isBare(specifier: string): boolean {
  return (
    !specifier.startsWith('.') &&
    !specifier.startsWith('/') &&
    !specifier.startsWith('node:') &&
    !isBuiltin(specifier)
  );
}

/** contract < base < edge < app, base in its order, and the listed exceptions. */
export const roomsRule: Rule = (file, workspace) => {
  const from = packageOf(file, workspace);
  if (from === undefined) return [];
  const found: Finding[] = [];
  for (const { specifier, line } of file.source.imports) {
    if (specifier.startsWith('.')) {
      const target = resolveImport(file, specifier);
      if (!target.startsWith(`${from.folder}/`)) {
        found.push(
          finding(file, line, 'rooms', `${specifier} leaves the package; import it by its package name`),
        );
      }
      continue;
    }
    if (!specifier.startsWith('@signalbox/')) continue;
    const room = baseName(packageName(specifier));
    if (room === from.room) continue;
    const refusal = refuse(from.room, room, file.isTest);
    if (refusal !== undefined) found.push(finding(file, line, 'rooms', refusal));
  }
  return found;
};

function refuse(from: string, to: string, isTest: boolean): string | undefined {
  const here = rooms[from];
  const there = rooms[to];
  if (here === undefined) return `${from} is no room of the table in tools/tidy/src/rooms.ts`;
  if (there === undefined) return `${to} is no room of the table in tools/tidy/src/rooms.ts`;
  if (to === 'testkit') {
    return isTest || testRooms.includes(from) ? undefined : 'only tests import testkit';
  }
  if (here.also?.includes(to)) return undefined;
  if (here.kind === 'base' && there.kind === 'base') {
    const inOrder = baseOrder.indexOf(to) < baseOrder.indexOf(from);
    return inOrder ? undefined : `${from} stands before ${to} in the order of base`;
  }
  if (below[here.kind].includes(there.kind)) return undefined;
  return `${from} (${here.kind}) may not import ${to} (${there.kind})`;
}

/** What is imported is declared by the importing package, and a workspace module is exported by its own. */
export const declaredRule: Rule = (file, workspace) => {
  const from = packageOf(file, workspace);
  if (from === undefined) return [];
  const found: Finding[] = [];
  for (const { specifier, line } of file.source.imports) {
    if (isBuiltin(specifier) && !specifier.startsWith('node:')) {
      found.push(finding(file, line, 'declared', `write node:${specifier}`));
    }
    if (!isBare(specifier)) continue;
    const name = packageName(specifier);
    if (
      name !== from.name &&
      !isDeclared(name, from, file.isTest || testSetup.includes(file.path), workspace)
    ) {
      found.push(finding(file, line, 'declared', `${name} is not declared in ${from.folder}/package.json`));
    }
    const target = workspace.packages.find((each) => each.name === name);
    if (target !== undefined && !target.exports.has(`.${specifier.slice(name.length)}`)) {
      found.push(
        finding(
          file,
          line,
          'declared',
          `${specifier} is not in the exports of ${target.folder}/package.json`,
        ),
      );
    }
  }
  return found;
};

function isDeclared(name: string, from: Package, isTest: boolean, workspace: Workspace): boolean {
  if (from.dependencies.has(name)) return true;
  return isTest && (from.devDependencies.has(name) || workspace.rootDevDependencies.has(name));
}

/** A driver is imported in one room only. */
export const driverRule: Rule = (file, workspace) => {
  if (driverGuests.some((folder) => file.path.startsWith(folder))) return [];
  const from = packageOf(file, workspace);
  const found: Finding[] = [];
  for (const { specifier, line } of file.source.imports) {
    if (!isBare(specifier)) continue;
    const name = packageName(specifier);
    const owner = drivers[name] ?? drivers[`${name.split('/', 1)[0]}/*`];
    if (owner !== undefined && from?.room !== owner) {
      found.push(
        finding(file, line, 'driver', `${name} is imported in ${rooms[owner]?.folder ?? owner} only`),
      );
    }
  }
  return found;
};

function isOwner(file: SourceFile, folders: readonly string[]): boolean {
  return folders.some((folder) => file.path.startsWith(folder)) || file.path.includes('/test/');
}

export const environmentRule: Rule = (file) => {
  if (isOwner(file, owners.environment)) return [];
  return [
    ...inCode(
      file,
      /\bprocess\s*\.\s*env\b|\bprocess\s*\[/g,
      'environment',
      () => 'the environment is read in libs/config only',
    ),
    ...inCode(
      file,
      /import\s*\{[^}]*\benv\b[^}]*\}\s*from\s*(?='\s{12}')/g,
      'environment',
      () => 'the environment is read in libs/config only',
    ),
  ];
};

/** `process.exitCode` is allowed: it ends nothing. */
export const exitRule: Rule = (file) => {
  if (isOwner(file, owners.exitAndSignals)) return [];
  const exits = inCode(
    file,
    /\bprocess\s*\.\s*(?:exit|abort|reallyExit)\s*\(/g,
    'exit',
    () => 'the process is ended in libs/lifecycle only',
  );
  const byStart = new Map(file.source.strings.map((each) => [each.start, each.value]));
  for (const match of file.source.code.matchAll(
    /\bprocess\s*\.\s*(?:on|once|addListener|prependListener)\s*\(\s*(?=['"`])/g,
  )) {
    const event = byStart.get(match.index + match[0].length) ?? '';
    if (event.startsWith('SIG') || event === 'unhandledRejection' || event === 'uncaughtException') {
      exits.push(
        finding(file, file.source.lineOf(match.index), 'exit', `${event} is handled in libs/lifecycle only`),
      );
    }
  }
  return exits;
};

export const consoleRule: Rule = (file) =>
  isOwner(file, owners.console)
    ? []
    : inCode(
        file,
        /\bconsole\s*\.\s*\w+/g,
        'console',
        () => 'services log through libs/telemetry, not console',
      );

/** A file that only passes on what others export hides where things are. */
export const barrelRule: Rule = (file) => {
  const exported = file.source.imports.filter((each) => each.kind === 'export');
  if (exported.length === 0) return [];
  const rest = file.source.code
    .replaceAll(/\bexport\s+(?:type\s+)?[\w$*{},\s]*?\bfrom\s*(['"])\s*\1\s*;?/g, '')
    .replaceAll(/\bimport\s+(?:type\s+)?[\w$*{},\s]*?\bfrom\s*(['"])\s*\1\s*;?/g, '')
    .replaceAll(/\bimport\s*(['"])\s*\1\s*;?/g, '');
  if (rest.trim() !== '') return [];
  return [
    finding(file, exported[0]?.line ?? 1, 'barrel', 'the file only re-exports; import from where things are'),
  ];
};

export const lengthRule: Rule = (file) =>
  file.source.lines < maxLines
    ? []
    : [finding(file, maxLines, 'length', `${file.source.lines} lines; a file stays under ${maxLines}`)];

/** Node runs the sources as they are: what needs rewriting and not only erasing cannot be there. */
export const syntaxRule: Rule = (file) => [
  ...inCode(
    file,
    /(?<![.\w$'"])enum\s+[A-Za-z_$][\w$]*\s*\{/g,
    'syntax',
    () => 'no enum: a union of texts, or an object',
  ),
  ...inCode(
    file,
    /(?<![.\w$'"])(?:namespace|module)\s+[A-Za-z_$][\w$.]*\s*\{/g,
    'syntax',
    () => 'no namespace: files are modules',
  ),
  ...inCode(
    file,
    /\bconstructor\s*\([^)]*?\b(?:private|public|protected|readonly)\s+\w/g,
    'syntax',
    () => 'no parameter property: declare the field',
  ),
];

export const doubtRule: Rule = (file) => [
  ...inCode(
    file,
    /:\s*any\b(?!\s*[.(?])|\bas\s+any\b|<\s*any\b|\bany\s*\[\]|\bany\s*>|\|\s*any\s*[;,)>=]/g,
    'doubt',
    () => 'no any: unknown until a schema has checked it',
  ),
  ...[...file.text.matchAll(/@ts-(?:ignore|nocheck)\b/g)]
    .filter((match) => !inString(file, match.index))
    .map((match) => finding(file, file.source.lineOf(match.index), 'doubt', `no ${match[0]}`)),
];

function inString(file: SourceFile, offset: number): boolean {
  return file.source.strings.some((each) => each.start < offset && offset <= each.start + each.value.length);
}

export const nameRule: Rule = (file) => {
  const stem = (file.path.split('/').at(-1) ?? '').split('.')[0] ?? '';
  return emptyNames.includes(stem)
    ? [finding(file, 1, 'name', `"${stem}" does not say what the file does`)]
    : [];
};

export const fileRules: readonly Rule[] = [
  roomsRule,
  declaredRule,
  driverRule,
  environmentRule,
  exitRule,
  consoleRule,
  barrelRule,
  lengthRule,
  syntaxRule,
  doubtRule,
  nameRule,
];
