import { entryFolders, rooms } from './rooms.ts';
import type { Finding } from './rules.ts';
import { baseName, resolveImport, type SourceFile, type Workspace } from './workspace.ts';

/**
 * Files that nothing leads to. Entries are what a package exports, its main.ts, tests, and every file that a manifest,
 * a script or another source names in a text (a child process, a worker); what these import is reached. A file that
 * only a test imports is not: it is tested and never used.
 */
export function unreferencedFiles(workspace: Workspace): Finding[] {
  const byPath = new Map(workspace.files.map((file) => [file.path, file]));
  const exported = new Map<string, string>();
  for (const each of workspace.packages) {
    for (const [subpath, file] of each.exports) exported.set(`${each.name}${subpath.slice(1)}`, file);
  }
  const named = namedTexts(workspace);
  const isEntry = (file: SourceFile): boolean =>
    file.path.endsWith('/src/main.ts') ||
    entryFolders.some((folder) => `/${file.path}`.includes(`/${folder}`)) ||
    [...exported.values()].includes(file.path) ||
    named.some(({ path, text }) => path !== file.path && names(text, file.path));

  const reached = new Set<string>();
  const visit = (file: SourceFile): void => {
    if (reached.has(file.path)) return;
    reached.add(file.path);
    for (const { specifier } of file.source.imports) {
      const target = specifier.startsWith('.') ? resolveImport(file, specifier) : exported.get(specifier);
      const next = target === undefined ? undefined : byPath.get(target);
      if (next !== undefined) visit(next);
    }
  };
  for (const file of workspace.files) if (!file.isTest && isEntry(file)) visit(file);
  // Tests reach only what lies beside them in test/ folders; a source must be reached without them.
  const reachedBySources = new Set(reached);
  const inTests = workspace.files.filter((file) => file.isTest).map(stringsOf);
  for (const file of workspace.files) {
    const isProgram =
      file.isTest && inTests.some(({ path, text }) => path !== file.path && names(text, file.path));
    if (/\.(?:test|regression)\.ts$/.test(file.path) || isProgram) visit(file);
  }
  return workspace.files
    .filter((file) => !(file.isTest ? reached : reachedBySources).has(file.path))
    .map((file) => ({
      file: file.path,
      line: 1,
      rule: 'unreferenced',
      message: 'nothing leads to this file',
    }));
}

/** Texts in which a file may be named: manifests and other files whole, of sources the string literals. */
function namedTexts(workspace: Workspace): { path: string; text: string }[] {
  return [
    ...workspace.otherTexts.filter((each) => !each.path.endsWith('.md')),
    ...workspace.files.filter((file) => !file.isTest).map(stringsOf),
  ];
}

/** The string literals of a source that are no imports. */
function stringsOf(file: SourceFile): { path: string; text: string } {
  const imported = new Set(file.source.imports.map((each) => each.specifier));
  const values = file.source.strings.map((each) => each.value).filter((value) => !imported.has(value));
  return { path: file.path, text: values.join('\n') };
}

/** `./tool-child.ts`, `src/generate-schemas.ts` or the whole path; the bare name alone could be any file. */
function names(text: string, path: string): boolean {
  const [name = '', folder = ''] = path.split('/').reverse();
  return text.includes(`./${name}`) || text.includes(`${folder}/${name}`);
}

/** Names of the papers beside the checkout, with a dash so that this file does not mention them. */
const paperNames = ['DELI-VERY', 'CONTR-ACTS', 'PIT-FALLS', 'BLUE-PRINT'].map((name) =>
  name.replace('-', ''),
);
const papers = new RegExp(String.raw`\b(?:${paperNames.join('|')})\b|\b(?:BENCH|DESIGN|STYLE)(?:\.md\b| \d)`);

/** The folder of papers beside the checkout is not part of the project, so nothing may lead there or name one of them. */
export function outsideMentions(workspace: Workspace): Finding[] {
  const outside = ['..', 'shared'].join('/');
  return [...workspace.files, ...workspace.otherTexts].flatMap(({ path, text }) =>
    text.split('\n').flatMap((content, index) => {
      const mention = content.includes(outside) ? outside : papers.exec(content)?.[0];
      if (mention === undefined) return [];
      const message = `mentions ${mention}, which is no part of the project`;
      return [{ file: path, line: index + 1, rule: 'outside', message }];
    }),
  );
}

/** A room of the table without a package is planned; a package without a room is an oversight. */
export function unknownRooms(workspace: Workspace): Finding[] {
  return workspace.packages
    .filter((each) => rooms[baseName(each.name)]?.folder !== each.folder)
    .map((each) => ({
      file: `${each.folder}/package.json`,
      line: 1,
      rule: 'rooms',
      message: `${each.name} is not in the room table of tools/tidy/src/rooms.ts`,
    }));
}
