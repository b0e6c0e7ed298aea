import type { Metrics } from '@signalbox/telemetry/telemetry';
import type { EndedState } from './task-state.ts';
import type { Verdict, WaitOutcome } from './task-store.ts';

export interface TaskMetrics {
  ended(target: 'persona' | 'handler', status: EndedState['status'], ms: number): void;
  /** A result of what a task waits for has come, so many seconds after it began to wait. */
  result(kind: WaitOutcome['kind'], verdict: Verdict, waitedSeconds: number | undefined): void;
  webhook(outcome: 'delivered' | 'failed' | 'not_taken', seconds: number): void;
}

export function taskMetrics(metrics: Metrics): TaskMetrics {
  const ended = metrics.counter('delegation_tasks_ended_total', {
    help: 'Tasks that ended here, by kind of target and status.',
    labels: ['target', 'status'],
  });
  const seconds = metrics.histogram('delegation_task_seconds', {
    help: 'Time from the submission of a task to its end.',
    labels: ['target'],
  });
  const results = metrics.counter('delegation_results_total', {
    help: 'Ends of turns and child tasks, and inputs, that tasks wait for: applied, a repeat, late, or for nobody.',
    labels: ['kind', 'verdict'],
  });
  const waits = metrics.histogram('delegation_wait_seconds', {
    help: 'Time that a task waited for the end of a turn, of a child task, or for input.',
    labels: ['kind'],
  });
  const calls = metrics.counter('webhook_calls_total', {
    help: 'Calls of webhooks: delivered, not taken (tried again), or failed for good.',
    labels: ['outcome'],
  });
  const callSeconds = metrics.histogram('webhook_call_seconds', { help: 'Time of one call of a webhook.' });
  return {
    ended(target, status, ms) {
      ended.add(1, { target, status });
      seconds.record(ms / 1_000, { target });
    },
    result(kind, verdict, waitedSeconds) {
      results.add(1, { kind, verdict });
      if (waitedSeconds !== undefined) waits.record(waitedSeconds, { kind });
    },
    webhook(outcome, took) {
      calls.add(1, { outcome });
      callSeconds.record(took);
    },
  };
}
