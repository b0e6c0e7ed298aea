import type { createBreaker } from '@signalbox/breaker/breaker';

/** All that an async sequence gives. */
export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

type BreakerParts = Pick<Parameters<typeof createBreaker>[0], 'log' | 'metrics'>;

const nothing = () => undefined;
const log: BreakerParts['log'] = {
  ...{ debug: nothing, info: nothing, warning: nothing, error: nothing, critical: nothing },
  child: () => log,
  enabled: () => false,
};

/** A log nobody reads and metrics nobody scrapes. */
export const silent: BreakerParts = {
  log,
  metrics: {
    counter: () => ({ add: nothing }),
    histogram: () => ({ record: nothing }),
    gauge: () => nothing,
  },
};
