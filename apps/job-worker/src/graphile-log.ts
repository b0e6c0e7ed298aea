import type { Logger } from '@signalbox/telemetry/telemetry';
import { Logger as GraphileLogger } from 'graphile-worker';

/**
 * graphile-worker's own words, as records of our log. What it says of single jobs is left out: a job's end is told by
 * the job itself (`job.finished`), with its trace. Without a log: silence.
 */
export function graphileLogger(log: Logger | undefined): GraphileLogger {
  return new GraphileLogger((scope) => (level, message, meta) => {
    if (log === undefined || 'job' in meta || scope.label === 'job') return;
    const fields = { says: firstLine(message), ...(meta.error === undefined ? {} : { error: meta.error }) };
    // Its connection to the database breaks and comes back by itself: no error of ours until jobs do not run.
    if (level === 'error' || level === 'warning') log.warning('graphile.says', fields);
    else log.debug('graphile.says', fields);
  });
}

/** Its messages carry stacks. */
function firstLine(message: string): string {
  return message.split('\n', 1)[0]?.slice(0, 500) ?? '';
}
