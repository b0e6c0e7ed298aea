import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { withFileLock } from './file-lock.ts';
import { javaWaysOut } from './java.ts';
import { PartProblem } from './part-problem.ts';
import { runProgram } from './part-process.ts';
import type { Progress } from './progress.ts';

/** File name → SHA-256 in hex, from a file in the format of `sha256sum`. */
export function parseSums(text: string): Map<string, string> {
  const sums = new Map<string, string>();
  for (const line of text.split('\n')) {
    const match = /^([0-9a-f]{64}) [ *](\S+)$/.exec(line);
    if (match?.[1] !== undefined && match[2] !== undefined) sums.set(match[2], match[1]);
  }
  return sums;
}

function sha256(file: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const hash = createHash('sha256');
    createReadStream(file, { highWaterMark: 1 << 20 })
      .on('error', reject)
      .on('data', (chunk) => hash.update(chunk))
      .on('end', () => resolve(hash.digest('hex')));
  });
}

/** Holds a folder of jars against their checksums: every listed jar is there, none differs, none is unlisted. */
export async function checkJars(folder: string, sums: ReadonlyMap<string, string>): Promise<string[]> {
  const present = (await readdir(folder)).filter((name) => name.endsWith('.jar'));
  const wrong = present.filter((name) => !sums.has(name)).map((name) => `${name} is not listed`);
  for (const [name, expected] of sums) {
    if (!present.includes(name)) wrong.push(`${name} is missing`);
    else if ((await sha256(join(folder, name))) !== expected)
      wrong.push(`${name} has other contents than pinned`);
  }
  return wrong;
}

/** Tells about a Maven run as it goes: each jar of some size, and the count at most once a second. */
function mavenProgress(name: string, total: number, progress: Progress): Progress {
  let jars = 0;
  let toldAt = performance.now();
  return (line) => {
    const match = /Downloaded from .*\/([^/ ]+\.jar) \(([^)]*?)(?: at .*)?\)/.exec(line);
    if (match?.[1] === undefined) return;
    jars += 1;
    if (/\bMB\b/.test(match[2] ?? '') || performance.now() - toldAt > 1_000) {
      toldAt = performance.now();
      progress(`${name}: fetched ${match[1]} (${match[2]}), ${jars} files so far for ${total} jars`);
    }
  };
}

async function runMaven(
  pom: string,
  target: string,
  onLine: Progress,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { code, output } = await runProgram(
    'mvn',
    [
      '--batch-mode',
      '-f',
      pom,
      'dependency:copy-dependencies',
      '-DincludeScope=runtime',
      `-DoutputDirectory=${target}`,
      '-Dmaven.artifact.threads=8',
      '-Dstyle.color=never',
    ],
    { timeoutMs: 600_000, onLine, signal },
  );
  signal?.throwIfAborted();
  if (code === 127)
    throw new PartProblem(
      `Maven (mvn) was not found, and the jars of ${pom} are not here yet; ${javaWaysOut}`,
    );
  if (code !== 0) {
    const reason = output.split('\n').find((line) => line.includes('ERROR')) ?? 'no reason given';
    throw new PartProblem(`Maven could not fetch the jars of ${pom}: ${reason.trim()}`);
  }
}

export interface JarSet {
  /** Folder with pom.xml and SHA256SUMS. */
  readonly recipe: string;
  readonly name: string;
  /** Where all sets are kept; survives a reset. */
  readonly cache: string;
  readonly progress: Progress;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The folder with the jars of a pom, fetched by Maven where they are not there yet. Jars with other contents than
 * pinned are never used. Checked whole after a fetch; later a mark with the pins' own hash stands for that.
 */
export async function ensureJars({ recipe, name, cache, progress, signal }: JarSet): Promise<string> {
  const pins = await readFile(join(recipe, 'SHA256SUMS'), 'utf8');
  const sums = parseSums(pins);
  const folder = join(cache, name);
  const mark = join(folder, 'verified');
  const pinsHash = createHash('sha256').update(pins).digest('hex');
  const isVerified = async () =>
    existsSync(mark) &&
    (await readFile(mark, 'utf8')) === pinsHash &&
    [...sums.keys()].every((jar) => existsSync(join(folder, jar)));
  if (await isVerified()) return folder;
  await mkdir(cache, { recursive: true });
  // One Maven at a time: several of them over an empty ~/.m2 write the same files.
  return withFileLock(join(cache, 'fetching'), 600_000, async () => {
    if (await isVerified()) return folder;
    progress(`${name}: fetching ${sums.size === 1 ? 'one jar' : `${sums.size} jars`} with Maven (once)`);
    const fetched = join(cache, `${name}.fetching`);
    await rm(fetched, { recursive: true, force: true });
    await runMaven(join(recipe, 'pom.xml'), fetched, mavenProgress(name, sums.size, progress), signal);
    const wrong = await checkJars(fetched, sums);
    if (wrong.length > 0) {
      await rm(fetched, { recursive: true, force: true });
      throw new PartProblem(
        `${name}: refused what Maven fetched, it differs from ${join(recipe, 'SHA256SUMS')}: ${wrong.join('; ')}`,
      );
    }
    await writeFile(join(fetched, 'verified'), pinsHash);
    await rm(folder, { recursive: true, force: true });
    await rename(fetched, folder);
    progress(`${name}: checksums hold`);
    return folder;
  });
}
