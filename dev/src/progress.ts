/** Receives one line a step: what is being fetched, started, ended. No newline at its end. */
export type Progress = (line: string) => void;

/** Writes progress to stdout, with the seconds since the start, so that a slow step shows. */
export function printProgress(startedAt: number = performance.now()): Progress {
  return (line) => {
    const seconds = ((performance.now() - startedAt) / 1000).toFixed(1).padStart(6);
    process.stdout.write(`${seconds}s  ${line}\n`);
  };
}

export const noProgress: Progress = () => {};
