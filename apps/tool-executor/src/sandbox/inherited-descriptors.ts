import { readdirSync, readFileSync } from 'node:fs';

/** O_CLOEXEC on every Linux. */
const closeOnExec = 0o2000000;
const firstOther = 4;

/**
 * Descriptors above the child's own that a process started from here would inherit: those that this process was itself
 * started with and that its runtime did not close. Its own are all closed at exec. Linux tells; elsewhere none are known.
 */
export function inheritedDescriptors(): number[] {
  try {
    return readdirSync('/proc/self/fdinfo')
      .map(Number)
      .filter((fd) => fd >= firstOther && leaks(fd));
  } catch {
    return [];
  }
}

function leaks(fd: number): boolean {
  try {
    const flags = /^flags:\s+([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1] ?? '';
    return (Number.parseInt(flags, 8) & closeOnExec) === 0;
  } catch {
    return false; // the descriptor by which the folder was read
  }
}
