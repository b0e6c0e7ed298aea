import { fork } from 'node:child_process';
import { once } from 'node:events';

export interface WorkerProcess extends AsyncDisposable {
  kill(signal: NodeJS.Signals): void;
}

/** A process whose worker ends each item at once, ready when its heart beats. */
export async function startWorkerProcess(given: {
  url: string;
  schema: string;
  leaseMs: number;
}): Promise<WorkerProcess> {
  const { url, schema, leaseMs } = given;
  const child = fork(new URL('./worker-main.ts', import.meta.url), [url, schema, String(leaseMs)]);
  await once(child, 'message');
  return {
    kill: (signal) => void child.kill(signal),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    },
  };
}
