import type { Metrics } from '@signalbox/telemetry/telemetry';

/** The metrics of turns, under the names of docs/reference/metrics.md. */
export function turnMetrics(metrics: Metrics, active: () => number) {
  const turns = metrics.counter('turns_total', { help: 'Turns that ended, by how.', labels: ['outcome'] });
  const duration = metrics.histogram('turn_duration_seconds', {
    help: 'Time from the first claim of a turn to its end, waiting for tools included.',
    labels: ['outcome'],
  });
  const firstToken = metrics.histogram('assistant_first_token_seconds', {
    help: 'Time from the claim of a turn to the first token of a model.',
  });
  const tokens = metrics.counter('assistant_tokens_total', {
    help: 'Tokens that models have read (input) and written (output).',
    labels: ['direction', 'model'],
  });
  metrics.gauge(
    'turns_active',
    { help: 'Turns that this process runs now; parked ones do not count.' },
    active,
  );
  return {
    /** `outcome`: the end reason of the final, `error` or `cancelled`. */
    ended(outcome: string, ms: number): void {
      turns.add(1, { outcome });
      duration.record(ms / 1_000, { outcome });
    },
    /** A turn that never ran. */
    endedUnrun(outcome: 'cancelled' | 'rejected'): void {
      turns.add(1, { outcome });
    },
    firstToken(ms: number): void {
      firstToken.record(ms / 1_000);
    },
    tokens(model: string, input: number, output: number): void {
      tokens.add(input, { direction: 'input', model });
      tokens.add(output, { direction: 'output', model });
    },
  };
}

export type TurnMetrics = ReturnType<typeof turnMetrics>;
