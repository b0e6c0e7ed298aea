import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

export interface MigrationFile {
  /** File name without its ending: the name under which it is recorded as run. */
  readonly name: string;
  /** `libs/work`, `apps/gateway`: who owns it. */
  readonly owner: string;
  readonly number: number;
  readonly path: string;
}

const fileForm = /^((\d{4})[_-][a-z0-9_-]+)\.(sql|ts)$/;
const repositoryRoot = join(import.meta.dirname, '..', '..', '..');

function packagesOf(root: string, folder: 'libs' | 'apps'): string[] {
  const path = join(root, folder);
  if (!existsSync(path)) return [];
  return readdirSync(path).map((name) => `${folder}/${name}`);
}

/**
 * Every migration of the workspace in the one order in which they run: by number over all packages.
 * Throws when a file is not named `0010_what-it-does.sql` (or .ts) or when two share a number.
 */
export function migrationFiles(root: string = repositoryRoot): MigrationFile[] {
  const files: MigrationFile[] = [];
  for (const owner of [...packagesOf(root, 'libs'), ...packagesOf(root, 'apps')]) {
    const folder = join(root, owner, 'migrations');
    if (!existsSync(folder)) continue;
    for (const entry of readdirSync(folder)) {
      const match = fileForm.exec(entry);
      const [, name, digits] = match ?? [];
      if (name === undefined || digits === undefined) {
        throw new Error(`${owner}/migrations/${entry}: not named like 0010_what-it-does.sql`);
      }
      files.push({ name, owner, number: Number(digits), path: join(folder, entry) });
    }
  }
  files.sort((a, b) => a.number - b.number);
  files.forEach((file, index) => {
    const before = files[index - 1];
    if (before?.number === file.number) {
      throw new Error(`${file.path}: number ${file.number} is taken by ${before.path}`);
    }
  });
  return files;
}

/**
 * Throws when a migration that has not run comes before one of the same package that has. Between packages the order of
 * arrival is free: each has its own block of numbers, so a later release adds to a block below another's.
 */
export function refuseGaps(files: readonly MigrationFile[], done: ReadonlySet<string>): void {
  for (const file of files) {
    if (done.has(file.name)) continue;
    const later = files.find(
      (other) => other.owner === file.owner && other.number > file.number && done.has(other.name),
    );
    if (later !== undefined) {
      throw new Error(`migration ${file.name} has not run but ${later.name} of the same package has`);
    }
  }
}
