import type { ToolOutcomeReported } from '@signalbox/contracts/tool-results';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';

/** Told of each call that ended, once its outcome is stored. */
export type CountCall = (outcome: ToolOutcomeReported, attempt: number) => void;

/** `implemented`: the tools of this release; labels are bounded, so any other is `unknown`. */
export function callCounter(log: Logger, metrics: Metrics, implemented: ReadonlySet<string>): CountCall {
  const requests = metrics.counter('tool_executor_requests_total', {
    help: 'Tool calls that ended, by tool and outcome.',
    labels: ['tool', 'outcome'],
  });
  const seconds = metrics.histogram('tool_executor_execution_seconds', {
    help: 'Time from the start of a tool call to its outcome.',
    labels: ['tool'],
  });
  return ({ tool: name, call_id: callId, outcome, duration_ms: ms }, attempt) => {
    const tool = implemented.has(name) ? name : 'unknown';
    requests.add(1, { tool, outcome });
    seconds.record(ms / 1_000, { tool });
    log.info('tool.finished', { tool: name, callId, outcome, ms, attempt });
  };
}
