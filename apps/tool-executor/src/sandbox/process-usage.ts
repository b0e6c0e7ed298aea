import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';

export interface ProcessUsage {
  readonly rssBytes: number;
  readonly cpuSeconds: number;
}

/** Kernel ticks a second in /proc: 100 on every Linux that Node runs on (USER_HZ is part of its interface). */
const ticksPerSecond = 100;

/** Resident memory and CPU time of a process, or undefined when it is gone. Linux reads /proc (about 50 µs). */
export async function readUsage(pid: number): Promise<ProcessUsage | undefined> {
  return process.platform === 'linux' ? readProc(pid) : readPs(pid);
}

/** How often a running child is looked at: what it can take between two looks is what a limit can be overrun by. */
export const usageIntervalMs = process.platform === 'linux' ? 20 : 100;

function readProc(pid: number): ProcessUsage | undefined {
  try {
    const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' '); // the name in brackets may hold anything
    const ticks = Number(fields[11]) + Number(fields[12]); // utime and stime, fields 14 and 15 of proc(5)
    return { rssBytes: Number(kilobytes ?? 0) * 1024, cpuSeconds: ticks / ticksPerSecond };
  } catch {
    return undefined;
  }
}

function readPs(pid: number): Promise<ProcessUsage | undefined> {
  return new Promise((resolve) => {
    execFile('ps', ['-o', 'rss=,time=', '-p', String(pid)], (error, out) => {
      resolve(error === null ? parsePs(out) : undefined);
    });
  });
}

/** `ps -o rss=,time=`: kilobytes, then [[days-]hours:]minutes:seconds. */
export function parsePs(line: string): ProcessUsage | undefined {
  const [, kilobytes, days = '0', time = ''] = /^\s*(\d+)\s+(?:(\d+)-)?([\d:.]+)\s*$/.exec(line) ?? [];
  if (kilobytes === undefined) {
    return undefined;
  }
  const seconds = time.split(':').reduce((total, part) => total * 60 + Number(part), 0);
  return { rssBytes: Number(kilobytes) * 1024, cpuSeconds: Number(days) * 86_400 + seconds };
}
