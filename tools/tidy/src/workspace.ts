import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, posix } from 'node:path';
import { ignoredFolders, rooms, sourceRoots } from './rooms.ts';
import { readSource, type SourceText } from './source-text.ts';

export interface SourceFile {
  /** From the root of the workspace, with slashes. */
  readonly path: string;
  readonly text: string;
  readonly source: SourceText;
  readonly isTest: boolean;
}

export interface Package {
  readonly folder: string;
  readonly name: string;
  /** Its key in the room table: the name without the scope. */
  readonly room: string;
  readonly dependencies: ReadonlySet<string>;
  readonly devDependencies: ReadonlySet<string>;
  /** Exported subpaths (`./outbox`) and the files behind them, from the root. */
  readonly exports: ReadonlyMap<string, string>;
  /** The text of package.json: scripts and targets name files in it. */
  readonly manifest: string;
}

export interface Workspace {
  readonly files: readonly SourceFile[];
  readonly packages: readonly Package[];
  readonly rootDevDependencies: ReadonlySet<string>;
  /** Texts outside the sources that may name one: root package.json, configuration, CI, images. */
  readonly otherTexts: readonly { readonly path: string; readonly text: string }[];
}

export function baseName(packageName: string): string {
  return packageName.split('/').at(-1) ?? packageName;
}

export function packageOf(file: SourceFile, workspace: Workspace): Package | undefined {
  return workspace.packages.find((each) => file.path.startsWith(`${each.folder}/`));
}

/** Where a relative import leads, from the root of the workspace. */
export function resolveImport(file: SourceFile, specifier: string): string {
  return posix.normalize(posix.join(posix.dirname(file.path), specifier));
}

export function sourceFile(path: string, text: string): SourceFile {
  const isTest = /\.(?:test|regression)\.ts$/.test(path) || /(?:^|\/)test\/|^regression\//.test(path);
  return { path, text, source: readSource(text), isTest };
}

export function readManifest(folder: string, text: string): Package {
  const manifest: unknown = JSON.parse(text);
  const name = textOf(manifest, 'name');
  const exported = Object.entries(recordOf(manifest, 'exports'));
  return {
    folder,
    name,
    room: baseName(name),
    dependencies: new Set(Object.keys(recordOf(manifest, 'dependencies'))),
    devDependencies: new Set(Object.keys(recordOf(manifest, 'devDependencies'))),
    exports: new Map(exported.map(([key, target]) => [key, posix.join(folder, String(target))])),
    manifest: text,
  };
}

/** Reads the whole workspace: a second for some hundred files. */
export function readWorkspace(root: string): Workspace {
  const files: SourceFile[] = [];
  const otherTexts: { path: string; text: string }[] = [];
  walk(root, '', (path) => {
    if (path.endsWith('.ts') && sourceRoots.some((each) => path.startsWith(`${each}/`))) {
      files.push(sourceFile(path, readFileSync(join(root, path), 'utf8')));
    } else if (
      /\.(?:ts|js|mjs|json|ya?ml|md|sh|toml|sql)$|Dockerfile|\.ci\/run$|\.example$|\.npmrc$/.test(path)
    ) {
      if (!path.endsWith('package-lock.json'))
        otherTexts.push({ path, text: readFileSync(join(root, path), 'utf8') });
    }
  });
  const folders = Object.values(rooms)
    .map((room) => room.folder)
    .filter((folder) => existsSync(join(root, folder, 'package.json')));
  const rootManifest: unknown = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  return {
    files,
    otherTexts,
    packages: folders.map((folder) =>
      readManifest(folder, readFileSync(join(root, folder, 'package.json'), 'utf8')),
    ),
    rootDevDependencies: new Set(Object.keys(recordOf(rootManifest, 'devDependencies'))),
  };
}

function walk(root: string, folder: string, onFile: (path: string) => void): void {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = posix.join(folder, entry.name);
    if (entry.isDirectory()) {
      if (!ignoredFolders.includes(entry.name)) walk(root, path, onFile);
    } else if (entry.isFile()) onFile(path);
  }
}

function recordOf(value: unknown, name: string): Record<string, unknown> {
  const inside: unknown = typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
  return typeof inside === 'object' && inside !== null ? { ...inside } : {};
}

function textOf(value: unknown, name: string): string {
  const inside: unknown = typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
  return typeof inside === 'string' ? inside : '';
}
