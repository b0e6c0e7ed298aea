import { statfs } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { ProbeDetail } from './check.ts';

const bytesInMb = 1024 * 1024;

/**
 * A probe of the free space under the given folders: degraded when any has less than `minFreeMb` left. A folder that
 * does not exist yet is looked at through its nearest parent: it will be made there.
 */
export function diskProbe(options: {
  readonly folders: readonly string[];
  readonly minFreeMb: number;
}): () => Promise<ProbeDetail> {
  return async () => {
    let leastMb = Number.POSITIVE_INFINITY;
    for (const folder of options.folders) leastMb = Math.min(leastMb, await freeMb(resolve(folder)));
    const free_mb = Number.isFinite(leastMb) ? Math.floor(leastMb) : 0;
    const enough = leastMb >= options.minFreeMb;
    return { status: enough ? 'ok' : 'degraded', ...(enough ? {} : { reason: 'low_space' }), free_mb };
  };
}

async function freeMb(folder: string): Promise<number> {
  try {
    const { bavail, bsize } = await statfs(folder);
    return (bavail * bsize) / bytesInMb;
  } catch (error) {
    const parent = dirname(folder);
    const missing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    if (missing && parent !== folder) return freeMb(parent);
    throw error;
  }
}
