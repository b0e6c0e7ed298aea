import { readFileSync } from 'node:fs';

/** Nearest-rank percentile of a sample, in the sample's unit; NaN for an empty one. */
export function percentile(sample: readonly number[], share: number): number {
  if (sample.length === 0) return Number.NaN;
  const sorted = [...sample].sort((a, b) => a - b);
  const rank = Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1));
  return sorted[rank] ?? Number.NaN;
}

export const median = (sample: readonly number[]): number => percentile(sample, 0.5);

/** Lowest and highest value: the spread that a single figure hides. */
export function spread(sample: readonly number[]): { low: number; high: number } {
  return { low: Math.min(...sample), high: Math.max(...sample) };
}

export interface Latency {
  count: number;
  p50Ms: number;
  p99Ms: number;
  maxMs: number;
}

export function latencyOf(samplesMs: readonly number[]): Latency {
  return {
    count: samplesMs.length,
    p50Ms: percentile(samplesMs, 0.5),
    p99Ms: percentile(samplesMs, 0.99),
    maxMs: percentile(samplesMs, 1),
  };
}

/** Linux counts a process's CPU in ticks of 10 ms (`getconf CLK_TCK` is 100 on every kernel Node runs on). */
const tickMs = 10;

/**
 * CPU milliseconds (user and system) that the processes have used so far, children they waited for included.
 * A process that is gone counts 0, so take the reading while they run. NaN where there is no /proc (macOS).
 */
export function cpuMsOf(pids: readonly number[]): number {
  let total = 0;
  for (const pid of pids) {
    let stat: string;
    try {
      stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    } catch (error) {
      if (process.platform !== 'linux') return Number.NaN;
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') continue;
      throw error;
    }
    // The second field is the command in parentheses and may hold spaces; fields are counted after it.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    total += [11, 12, 13, 14].reduce((sum, index) => sum + Number(fields[index] ?? 0), 0) * tickMs;
  }
  return total;
}

export const round = (value: number, digits = 1): number => Number(value.toFixed(digits));
