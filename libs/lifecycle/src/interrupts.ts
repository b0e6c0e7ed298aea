/**
 * Calls `onInterrupt` at each Ctrl-C (SIGINT) in place of the process's end, until the answered function is called. For
 * commands that have something to take back; services are stopped by `runMain`.
 */
export function interrupts(onInterrupt: () => void): () => void {
  process.on('SIGINT', onInterrupt);
  return () => void process.off('SIGINT', onInterrupt);
}
