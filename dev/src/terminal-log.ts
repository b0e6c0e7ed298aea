import type { LifecycleLog } from '@signalbox/lifecycle/lifecycle';
import { PartProblem } from './part-problem.ts';
import type { Progress } from './progress.ts';

function errorText(error: unknown): string {
  // What the person can change is one line; anything else is a bug and shows where it comes from.
  if (error instanceof PartProblem) return error.message;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

/** The lifecycle's events as lines for the person at the terminal: services log JSON, this is not one. */
export function terminalLog(progress: Progress): LifecycleLog {
  const problem = (event: string, fields: Record<string, unknown> = {}) => {
    // A stop came while it was starting: what was cut short is no news.
    if (event === 'service.start_aborted') return;
    const subject = typeof fields.step === 'string' ? `${event} ${fields.step}` : event;
    if (fields.error !== undefined)
      progress(
        fields.error instanceof PartProblem ? fields.error.message : `${subject}: ${errorText(fields.error)}`,
      );
    else progress(`${subject} ${JSON.stringify(fields)}`);
  };
  return {
    info(event, fields) {
      if (event === 'service.stopping') progress(`stopping (${fields?.reason})`);
      else if (event === 'service.stopped') progress('stopped, nothing is left running');
    },
    error: problem,
    critical: problem,
  };
}
