/**
 * graphile-worker with empty jobs, as its readme sets it up: enters JOBS jobs with one statement, then runs them, CONCURRENCY at once.
 * Prints how long it took from before the statement until the last job had run.
 */
import { Logger, makeWorkerUtils, run } from 'graphile-worker';

const jobs = Number(process.env.JOBS ?? '1000');
const connectionString = process.env.DATABASE_OWNER_URL ?? '';
// Its own lines go to stdout, where ours are read as JSON.
const logger = new Logger(() => () => undefined);

const utils = await makeWorkerUtils({ connectionString, logger });
await utils.migrate();
let left = jobs;
const { promise: done, resolve } = Promise.withResolvers<void>();
await run({
  connectionString,
  concurrency: Number(process.env.CONCURRENCY ?? '32'),
  logger,
  noHandleSignals: true,
  taskList: {
    nothing: async () => {
      left -= 1;
      if (left === 0) resolve();
    },
  },
});
console.log(JSON.stringify({ event: 'service.started', port: 0 }));
const startedAt = performance.now();
await utils.addJobs(Array.from({ length: jobs }, (_, at) => ({ identifier: 'nothing', payload: { a: at } })));
await done;
console.log(JSON.stringify({ event: 'jobs.done', ms: performance.now() - startedAt }));
