import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';

export interface ExportFile {
  readonly folder: string;
  readonly tenant: string;
  readonly jobId: string;
  /** The fence of the run: no two runs of a job have the same. */
  readonly attempt: number;
  /** The first line. */
  readonly header: object;
  readonly pages: AsyncIterable<readonly object[]>;
  readonly maxRows: number;
  readonly maxBytes: number;
  /** Of all exports of the tenant together, those that are kept among them. */
  readonly maxTenantBytes: number;
  /** Asked last of all: whether the job is still this process's. */
  readonly held: () => boolean;
}

export interface WrittenExport {
  readonly rows: number;
  readonly bytes: number;
}

/** Where the finished export of a job stands. */
export function exportPath(folder: string, tenant: string, jobId: string): string {
  return join(folder, tenant, `${jobId}.ndjson`);
}

/** What a run writes to before the file is whole. */
export function unfinishedName(jobId: string, attempt: number): string {
  return `.${jobId}.${attempt}.tmp`;
}

/**
 * Writes an export: a header line, one line a row, and a last line by which a reader knows that it is whole. The file has
 * its name only when all of it is on the disk; a run that died leaves one under another name, which the next run removes.
 * That also takes a run that only stood still out of the way: its file is gone, so it cannot be given the name.
 * Faults: BODY_TOO_LARGE (over the limits), LEASE_LOST, and those of the pages.
 */
export async function writeExport(file: ExportFile): Promise<WrittenExport> {
  const { folder, tenant, jobId, attempt, header } = file;
  const ownFolder = join(folder, tenant);
  await mkdir(ownFolder, { recursive: true });
  await removeUnfinished(ownFolder, jobId);
  const keptBytes = await bytesOfOthers(ownFolder, jobId);
  const path = join(ownFolder, unfinishedName(jobId, attempt));
  const handle = await open(path, 'wx', 0o600);
  try {
    const written = await writeLines(handle, header, file, keptBytes);
    await handle.sync();
    await handle.close();
    if (!file.held()) throw fault('LEASE_LOST', 'the job is run by another process');
    await rename(path, exportPath(folder, tenant, jobId));
    await syncFolder(ownFolder);
    return written;
  } catch (error) {
    await handle.close().catch(() => undefined);
    await rm(path, { force: true }).catch(() => undefined);
    throw error;
  }
}

async function writeLines(
  handle: FileHandle,
  header: object,
  file: ExportFile,
  keptBytes: number,
): Promise<WrittenExport> {
  let rows = 0;
  let bytes = 0;
  const write = async (text: string) => {
    bytes += Buffer.byteLength(text);
    if (bytes > file.maxBytes) throw fault('BODY_TOO_LARGE', 'the export is larger than EXPORT_MAX_MB');
    if (keptBytes + bytes > file.maxTenantBytes) {
      const why =
        'the exports of the tenant are larger than EXPORT_TENANT_MAX_MB; each goes when its link has expired';
      throw fault('BODY_TOO_LARGE', why);
    }
    await handle.writeFile(text);
  };
  await write(`${JSON.stringify(header)}\n`);
  for await (const page of file.pages) {
    rows += page.length;
    if (rows > file.maxRows) throw fault('BODY_TOO_LARGE', 'the export has more rows than EXPORT_MAX_ROWS');
    if (page.length > 0) await write(page.map((row) => `${JSON.stringify(row)}\n`).join(''));
    failPoint('export.page_written');
  }
  await write(`${JSON.stringify({ end: true, count: rows })}\n`);
  return { rows, bytes };
}

/** Exports of a tenant are written one after the other, so nobody adds to them meanwhile. */
async function bytesOfOthers(ownFolder: string, jobId: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(ownFolder)) {
    if (name === `${jobId}.ndjson`) continue;
    // One that has just been removed counts no more.
    bytes += await stat(join(ownFolder, name)).then(
      ({ size }) => size,
      () => 0,
    );
  }
  return bytes;
}

async function removeUnfinished(ownFolder: string, jobId: string): Promise<void> {
  const names = await readdir(ownFolder);
  for (const name of names.filter((each) => each.startsWith(`.${jobId}.`))) {
    await rm(join(ownFolder, name), { force: true });
  }
}

/** The new name is on the disk, too. */
async function syncFolder(ownFolder: string): Promise<void> {
  const handle = await open(ownFolder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
