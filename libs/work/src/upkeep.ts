import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import type { TenantLoad, WorkQueue } from './queue.ts';

export interface UpkeepOptions {
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly queueName: string;
}

const loadEveryMs = 2000;
const sweepEveryMs = 10_000;
const staleAfterMs = 30_000;

/** Counts, and the net below the touches of lanes: every process does them, none needs another. Old rows: `upkeep-tasks.ts`. */
export class Upkeep {
  readonly #queue: WorkQueue;
  readonly #options: UpkeepOptions;
  readonly #timers: NodeJS.Timeout[] = [];
  #load: readonly TenantLoad[] = [];
  #loadAt: number | undefined;
  #busy = false;

  constructor(queue: WorkQueue, options: UpkeepOptions) {
    this.#queue = queue;
    this.#options = options;
  }

  get load(): readonly TenantLoad[] {
    return this.#load;
  }

  start(): void {
    const { metrics, queueName } = this.#options;
    const labels = { queue: queueName };
    const recent = () => this.#loadAt !== undefined && Date.now() - this.#loadAt < staleAfterMs;
    metrics.gauge(
      'work_waiting',
      {
        help: 'Work rows that wait for a process or for their turn in a lane; not those behind a parked one.',
        labels: ['queue'],
      },
      () =>
        recent() ? [{ value: this.#load.reduce((sum, each) => sum + each.waiting, 0), labels }] : undefined,
    );
    metrics.gauge(
      'work_oldest_seconds',
      { help: 'How long the lane that waits longest for a process has waited.', labels: ['queue'] },
      () =>
        recent()
          ? [{ value: this.#load.reduce((most, each) => Math.max(most, each.oldestSeconds), 0), labels }]
          : undefined,
    );
    const readLoad = () => this.#quietly('load', () => this.#readLoad());
    readLoad();
    this.#timers.push(
      setInterval(readLoad, loadEveryMs),
      setInterval(() => this.#quietly('sweep', () => this.#sweep()), sweepEveryMs),
    );
  }

  stop(): void {
    for (const timer of this.#timers) clearInterval(timer);
  }

  async #readLoad(): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    try {
      this.#load = await this.#queue.load();
      this.#loadAt = Date.now();
    } finally {
      this.#busy = false;
    }
  }

  async #sweep(): Promise<void> {
    const found = await this.#queue.sweep();
    if (found > 0) this.#options.log.warning('work.sweep_found', { lanes: found });
  }

  #quietly(what: string, act: () => Promise<void>): void {
    act().catch((error: unknown) => this.#options.log.debug('work.upkeep_failed', { what, error }));
  }
}
